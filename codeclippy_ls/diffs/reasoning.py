"""Remove a model's reasoning from its answer: the text before `</think>`, in which a draft is no answer. Pure."""

from __future__ import annotations

import re

_TAGS = ("<think>", "<thinking>", "<thought>", "<reasoning>", "<seed:think>", "[THINK]")
# A closing tag counts if its line is not one of a diff: chat templates often write the opening tag themselves.
_CLOSING = re.compile(
    r"^(?![ +-]).*?(?:" + "|".join(re.escape(f"{tag[0]}/{tag[1:]}") for tag in _TAGS) + ")", re.MULTILINE
)


def remove_reasoning(text: str, document: str) -> str | None:
    """Return an answer without the reasoning before it; ``None`` if the answer ends before the reasoning does.

    The last closing tag counts. Without an opening tag none does if the document holds such a tag itself: it may be a
    line of the diff that lost its space.

    Args:
        document: the text that the answer is about.
    """
    opening = next((tag for tag in _TAGS if text.lstrip().startswith(tag)), "")
    if not opening and _has_tag(document):
        return text
    closings = list(_CLOSING.finditer(text))
    if closings:
        return text[closings[-1].end() :]
    if not opening:
        return text
    _, closing, answer = text.partition(f"{opening[0]}/{opening[1:]}")
    return answer if closing else None


def _has_tag(text: str) -> bool:
    return any(f"{tag[0]}/{tag[1:]}" in text for tag in _TAGS)
