"""Prompts: what each family of models is asked, token by token, and what is kept of its answer.

Knows token ids through a tokenizer's face, and documents; knows no threads, no LSP and no torch.
"""

from codeclippy_ls.prompts.build import (
    Context,
    Edited,
    Prompt,
    Tokenizer,
    View,
    completion_prompt,
    edit_prompt,
    edits,
    markers,
)
from codeclippy_ls.prompts.families import FAMILIES, Family, Job, recognise, served_family
from codeclippy_ls.prompts.plain import (
    PlainPrompt,
    Served,
    closed,
    continued,
    plain_completion,
    plain_edit,
    without_control,
)
from codeclippy_ls.prompts.surroundings import SCOPE, Other, Passage, passages
from codeclippy_ls.prompts.trim import FILTERS, ended, indentation, replaced, trim
from codeclippy_ls.prompts.validity import fitting, open_at_end, parses, spoilt

__all__ = [
    "FAMILIES",
    "FILTERS",
    "SCOPE",
    "Context",
    "Edited",
    "Family",
    "Job",
    "Other",
    "Passage",
    "PlainPrompt",
    "Prompt",
    "Served",
    "Tokenizer",
    "View",
    "closed",
    "completion_prompt",
    "continued",
    "edit_prompt",
    "edits",
    "ended",
    "fitting",
    "indentation",
    "markers",
    "open_at_end",
    "parses",
    "passages",
    "plain_completion",
    "plain_edit",
    "recognise",
    "replaced",
    "served_family",
    "spoilt",
    "trim",
    "without_control",
]
