"""A checkpoint's chat template, as the text in front of a user's message and the text behind it.

Templates are programs in Jinja; transformers runs them in a sandbox. They see a placeholder, never the user's text, so
that no text can be taken for a turn's end.
"""

from __future__ import annotations

import json
from pathlib import Path

_PLACEHOLDER = "\ue000message\ue000"


def read_chat_template(folder: Path) -> tuple[str, str] | None:
    """What stands before and after one user message, up to where the answer begins; ``None`` where there is no template
    or it cannot be used."""
    template = _template(folder)
    if template is None:
        return None
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        names = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        tokens = {key: _text(names.get(key)) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
        messages = [{"role": "user", "content": _PLACEHOLDER}]
        rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **tokens)
    except Exception:  # a template may raise anything
        return None
    before, found, after = rendered[0].partition(_PLACEHOLDER)
    return (before, after) if found and _PLACEHOLDER not in after else None


def _template(folder: Path) -> str | None:
    own = folder / "chat_template.jinja"
    try:
        if own.is_file():
            return own.read_text(encoding="utf-8")
        found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(found, list):  # several by name
        found = next((one.get("template") for one in found if one.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _text(token: object) -> str:
    """A control token, which older configurations write as an object."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""
