"""Read a checkpoint's chat template as two texts: the one before a user's message, and the one after it.

Templates are Jinja programs; transformers runs them in a sandbox. They are given a placeholder, never the user's text,
so that no text can be mistaken for the end of a message.
"""

from __future__ import annotations

import json
from pathlib import Path

_PLACEHOLDER = "\ue000message\ue000"


def read_chat_template(folder: Path) -> tuple[str, str] | None:
    """Return the text before and after one user message, up to where the answer begins.

    ``None`` if there is no template or it cannot be used.
    """
    template = _find_template(folder)
    if template is None:
        return None
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        names = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        tokens = {key: _get_content(names.get(key)) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
        messages = [{"role": "user", "content": _PLACEHOLDER}]
        rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **tokens)
    except Exception:  # a template may raise anything
        return None
    before, placeholder, after = rendered[0].partition(_PLACEHOLDER)
    return (before, after) if placeholder and _PLACEHOLDER not in after else None


def _find_template(folder: Path) -> str | None:
    path = folder / "chat_template.jinja"
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
        template = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(template, list):  # several templates by name
        template = next((named.get("template") for named in template if named.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _get_content(token: object) -> str:
    """Return a control token's text; older configurations store the token as an object."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""
