"""Find the control tokens that a service would read in a text: those of the table of families, and all published ones.

Whatever a service says that it runs, it may run another model, and its chat template has tokens of its own. So a text
is checked for the tokens of every family, for those that publishers of chat and code models list in their tokenizers,
and for those that the service lists itself. Most have a shape that no programming language uses. Knows no tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from codeclippy_ls.families import FAMILIES, Family, list_control_tokens

# Tokens that open a turn, call a tool or begin another file, by publisher, from the tokenizers' added tokens. Those of
# the shape `<|name|>` need no entry.
_PUBLISHED_TOKENS: dict[str, tuple[str, ...]] = {
    "Llama 2, Code Llama": (
        *("<s>", "</s>", "<<SYS>>", "<</SYS>>", "[INST]", "[/INST]"),
        *("<PRE>", "<SUF>", "<MID>", "<EOT>"),  # of Code Llama, as Ollama's templates spell them
    ),
    "Mistral": (
        *("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
        *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[TOOL_CONTENT]", "[CALL_ID]"),
        *("[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[IMG_BREAK]", "[IMG_END]", "[THINK]", "[/THINK]"),
        *("[MODEL_SETTINGS]", "[/MODEL_SETTINGS]", "[BEGIN_AUDIO]"),
    ),
    "Qwen": ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
    "StarCoder, SmolLM, Granite, Mellum": (
        *("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>"),
        *("<filename>", "<file_sep>", "<repo_name>", "<reponame>", "<gh_stars>", "<empty_output>"),
        *("<commit_before>", "<commit_msg>", "<commit_after>", "<code_to_intermediate>", "<intermediate_to_code>"),
        *("<issue_start>", "<issue_comment>", "<issue_closed>"),
        *("<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<jupyter_script>"),
        *("<pr>", "<pr_status>", "<pr_is_merged>", "<pr_base>", "<pr_file>", "<pr_base_code>", "<pr_comment>"),
        *("<pr_diff>", "<pr_diff_hunk>", "<pr_diff_hunk_comment_line>", "<pr_event_id>"),
        *("<pr_review>", "<pr_review_state>", "<pr_review_comment>"),
        *("<pr_in_reply_to_review_id>", "<pr_in_reply_to_comment_id>"),
    ),
    "SantaCoder": ("<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<fim-pad>"),
    "Gemma": (
        *("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<2mass>", "[@BOS@]"),
        *("<start_of_image>", "<end_of_image>", "<image_soft_token>", "<start_function_call>", "<end_function_call>"),
        *("<start_function_response>", "<end_function_response>"),
    ),
    "DeepSeek": ("｜DSML｜",),
    "Seed-Coder": (
        *("<[begin▁of▁sentence]>", "<[end▁of▁sentence]>", "<[PAD▁TOKEN]>", "<[SEP▁TOKEN]>", "<[MASK▁TOKEN]>"),
        *("<[CLS▁TOKEN]>", "<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"),
    ),
    "GLM": ("[gMASK]", "[sMASK]", "<sop>", "<eop>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    "Cohere": ("<BOS_TOKEN>", "<EOS_TOKEN>", "<EOP_TOKEN>"),
    "MiniMax": ("]~b]", "[e~[", "]~!b[", "<minimax:tool_call>", "</minimax:tool_call>"),
    "LongCat, Hunyuan, Seed": ("<longcat_user>", "<longcat_assistant>", "<longcat_system>", "<seed:bos>", "<seed:eos>"),
    "Falcon": (">>QUESTION<<", ">>ANSWER<<", ">>TITLE<<", ">>ABSTRACT<<", ">>INTRODUCTION<<", ">>SUMMARY<<"),
}
# Tokens that are words of manuals and tests as well, and that open nothing: they count for the families that have them,
# and for models of which nothing is known.
_PLACEHOLDER_TOKENS: dict[str, tuple[str, ...]] = {
    "starcoder": ("<NAME>", "<EMAIL>", "<KEY>", "<PASSWORD>"),
    "code-llama": ("<unk>",),
    "codegemma": ("<pad>", "<unk>", "<mask>"),
    "codestral": ("<unk>", "<pad>", "[ARGS]", "[IMG]", "[AUDIO]"),
}
# `<|name|>` with the ASCII or the full-width bar, reserved tokens, and the numbered ones of T5, Gemma and Mistral.
_SHAPES = r"<[|｜][^\s<>|｜]{1,64}[|｜]>|<(?:unused|extra_id_|SPECIAL_)\d{1,4}>|\[control_\d{1,4}\]"
# What a service may list as a control token: anything else would refuse ordinary text.
_LISTABLE = re.compile(r"(?!\w)(?=\W*\w)\S{3,64}(?<!\w)")
_MAX_LISTED = 4096

CHAT_TOKENS = (
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    *("<｜User｜>", "<｜Assistant｜>", "<|start|>", "<|message|>", "<|channel|>"),
)


class RefusedTextError(ValueError):
    """A document's text must not be sent as it is; the message is for the user and names no text but a token."""


def find_control_tokens(text: str, family: Family, listed: tuple[str, ...] = ()) -> list[str]:
    """Find the control tokens that a text spells, in order.

    Args:
        family: of the model, as far as it is known.
        listed: tokens that the service lists.
    """
    return _compile(family.name, listed).findall(text)


def select_listed_tokens(tokens: Iterable[object]) -> tuple[str, ...]:
    """Select the control tokens of what a service lists: strings that no name and no number can be."""
    found = (token for token in tokens if isinstance(token, str) and _LISTABLE.fullmatch(token))
    return tuple(dict.fromkeys(found))[:_MAX_LISTED]


@lru_cache(maxsize=64)
def _compile(family: str, listed: tuple[str, ...]) -> re.Pattern[str]:
    """Compile the pattern of all tokens, longest first: `▁<PRE>` is not `<PRE>`."""
    is_known = family != FAMILIES[-1].name
    placeholders = [_PLACEHOLDER_TOKENS.get(family, ())] if is_known else _PLACEHOLDER_TOKENS.values()
    published = [token for tokens in (*_PUBLISHED_TOKENS.values(), *placeholders) for token in tokens]
    tokens = {*list_control_tokens(), *published, *listed}
    exact = "|".join(re.escape(token) for token in sorted(tokens, key=lambda token: (-len(token), token)))
    return re.compile(f"{exact}|{_SHAPES}")
