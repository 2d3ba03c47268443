"""The two jobs, joined from prompts, constraints, the engine and diffs: ``complete`` at a cursor, ``edit`` by message.

Takes frozen documents and answers with frozen values in offsets; stale or worthless results are dropped here. Knows
no LSP types, no torch and no transport.
"""

from codeclippy_ls.assist.asks import CompletionAsk, EditAsk, ShownDiff
from codeclippy_ls.assist.assistant import EDIT, Assistant, model_specs, open_engine
from codeclippy_ls.assist.facts import ModelFacts, facts_of
from codeclippy_ls.assist.gates import secret
from codeclippy_ls.assist.memory import Suggestion
from codeclippy_ls.assist.proposals import Proposal, Refusal
from codeclippy_ls.assist.rebase import rebased
from codeclippy_ls.assist.regions import Marker, is_new, marker_at, scope, shown_part
from codeclippy_ls.assist.suggester import COMPLETE, Suggestions

__all__ = [
    "COMPLETE",
    "EDIT",
    "Assistant",
    "CompletionAsk",
    "EditAsk",
    "Marker",
    "ModelFacts",
    "Proposal",
    "Refusal",
    "ShownDiff",
    "Suggestion",
    "Suggestions",
    "facts_of",
    "is_new",
    "marker_at",
    "model_specs",
    "open_engine",
    "rebased",
    "scope",
    "secret",
    "shown_part",
]
