"""Prompts, id by id: each family's exact sequence, user text without control tokens, and the context length."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from codeclippy_ls.engine.generation.kv_cache import common_prefix_length
from codeclippy_ls.engine.loading.chat_template import read_chat_template
from codeclippy_ls.engine.loading.tokenizer import Tokenizer, read_tokenizer
from codeclippy_ls.families import FAMILIES, Capability, EditFormat, detect_family, select_edit_format
from codeclippy_ls.prompts.context import CompletionContext, EditTarget
from codeclippy_ls.prompts.token_prompts import (
    build_completion_prompt,
    build_edit_prompt,
    resolve_family,
)
from tests import checkpoints
from tests.shared import tokenizer_folder

PREFIX, SUFFIX = "def f(x):\n    return ", "\n\nf(1)\n"


def view(tokenizer: Tokenizer, architecture: str = "llama", name: str = "") -> Any:
    """Make the part of a model that prompts need."""
    return SimpleNamespace(tokenizer=tokenizer, architecture=architecture, name=name, chat=None)


def family_tokenizer(family: Any) -> Tokenizer:
    """Make a byte-level tokenizer with a family's control tokens."""
    tokens = [*family.required_tokens, *family.stop_tokens, *(part.token for part in family.bos_tokens)]
    for template in (family.fim_template, family.edit_template):
        tokens += [part.token for part in template or () if hasattr(part, "token")]
    return Tokenizer(checkpoints.make_tokenizer_json(tuple(dict.fromkeys(tokens)) or ("<|endoftext|>",)))


# family: architecture, name, and its prompt for a middle: names of control tokens, P and S for the texts.
FIM_PROMPTS = {
    "clippy": ("gpt_neox", "", ["<|SUF|>", "S", "<|PRE|>", "P", "<|MID|>"]),
    "santacoder": ("gpt2", "", ["<fim-prefix>", "P", "<fim-suffix>", "S", "<fim-middle>"]),
    "mellum": ("llama", "JetBrains/Mellum-4b-base", ["<fim_suffix>", "S", "<fim_prefix>", "P", "<fim_middle>"]),
    "starcoder2": ("starcoder2", "", ["<fim_prefix>", "P", "<fim_suffix>", "S", "<fim_middle>"]),
    "starcoder": ("gpt_bigcode", "", ["<fim_prefix>", "P", "<fim_suffix>", "S", "<fim_middle>"]),
    "codegemma": ("gemma", "", ["<bos>", "<|fim_prefix|>", "P", "<|fim_suffix|>", "S", "<|fim_middle|>"]),
    "qwen-coder": ("qwen2", "", ["<|fim_prefix|>", "P", "<|fim_suffix|>", "S", "<|fim_middle|>"]),
    "deepseek-coder": (
        "llama",
        "",
        ["<｜begin▁of▁sentence｜>", "<｜fim▁begin｜>", "P", "<｜fim▁hole｜>", "S", "<｜fim▁end｜>"],
    ),
    "code-llama": ("llama", "", ["<s>", "▁<PRE>", "P", "▁<SUF>", "S", "▁<MID>"]),
    "codestral": ("mistral", "mistralai/Codestral-22B-v0.1", ["<s>", "[SUFFIX]", "S", "[PREFIX]", "P"]),
    "seed-coder": (
        "llama",
        "",
        ["<[begin▁of▁sentence]>", "<[fim-suffix]>", "S", "<[fim-prefix]>", "P", "<[fim-middle]>"],
    ),
}


@pytest.mark.parametrize(
    ("architecture", "hub", "of", "name"),
    [
        ("phi3", "microsoft/phi-4", "qwen-coder", "phi"),
        ("llama", "infly/OpenCoder-1.5B-Base", "starcoder", "opencoder"),
        ("mistral", "mistralai/Mistral-Nemo-Base-2407", "codestral", "causal"),
    ],
)
def test_control_tokens_that_a_model_was_not_trained_with(architecture: str, hub: str, of: str, name: str) -> None:
    """Its vocabulary was taken from another family: it continues, without FIM."""
    tokenizer = family_tokenizer(next(row for row in FAMILIES if row.name == of))
    found = resolve_family(view(tokenizer, architecture, hub))
    assert found.name == name and found.fim_template is None


@pytest.mark.parametrize("name", FIM_PROMPTS)
def test_fim_ids_by_family(name: str) -> None:
    """The family is detected by its vocabulary, and its prompt is exactly these ids."""
    architecture, hub, order = FIM_PROMPTS[name]
    family = next(row for row in FAMILIES if row.name == name)
    tokenizer = family_tokenizer(family)
    subject = view(tokenizer, architecture, hub)
    assert resolve_family(subject) is family
    prompt = build_completion_prompt(subject, CompletionContext(PREFIX, SUFFIX), 256, 32)
    texts = {"P": tokenizer.encode(PREFIX), "S": tokenizer.encode(SUFFIX)}
    expected: list[int] = []
    for part in order:
        expected += texts.get(part) or [tokenizer.control_token_to_id(part)]  # type: ignore[list-item]
    assert list(prompt.token_ids) == expected
    assert (
        prompt.stop_token_ids == {tokenizer.control_token_to_id(token) for token in family.stop_tokens}
        and prompt.healing_prefix == ""
    )


def test_every_fim_family_is_tested() -> None:
    """A row that is added to the table needs its ids here."""
    rows = {family.name for family in FAMILIES if family.fim_template}
    assert rows == {*FIM_PROMPTS, "fim-neox"}


def test_fim_neox_with_its_own_tokenizer() -> None:
    """Suffix, prefix, middle by the ids 50277 to 50279, no spaces and nothing in front; ended by id 0."""
    tokenizer = read_tokenizer(tokenizer_folder("fim-neox"))
    subject = view(tokenizer, "gpt_neox", "CarperAI/FIM-NeoX-1.3B")
    prompt = build_completion_prompt(subject, CompletionContext("Hello world.", "Hello"), 2048, 64)
    assert prompt.token_ids == (50277, 12092, 50278, 12092, 1533, 15, 50279)
    begun = build_completion_prompt(subject, CompletionContext("Hello wor", "Hello"), 2048, 64)
    assert begun.token_ids == (50277, 12092, 50278, 12092, 50279) and begun.healing_prefix == " wor"
    assert prompt.family.name == "fim-neox" and prompt.stop_token_ids == {0}


def test_fim_neox_with_wrong_ids_has_no_fim() -> None:
    """Early uploads had other ids: the row does not match, and the model only continues."""
    wrong = Tokenizer(checkpoints.make_tokenizer_json(("<|endoftext|>", "<|SUF|>", "<|PRE|>", "<|MID|>")))
    assert Capability.FIM not in resolve_family(view(wrong, "gpt_neox")).capabilities


@pytest.mark.parametrize(
    ("name", "architecture", "family"),
    [
        ("codegen", "codegen", "codegen"),
        ("codeclippy", "gpt_neo", "code-clippy"),
        ("gpt2", "gpt2", "causal"),
        ("neox", "gpt_neox", "causal"),
    ],
)
def test_continuation_with_the_published_tokenizers(name: str, architecture: str, family: str) -> None:
    """Plain ids of the prefix, without its partial last token, which the answer must begin with."""
    tokenizer = read_tokenizer(tokenizer_folder(name))
    subject = view(tokenizer, architecture)
    prompt = build_completion_prompt(subject, CompletionContext("def f(x):\n    retu", "ignored"), 2048, 64)
    assert prompt.family.name == family and prompt.healing_prefix == " retu"
    assert list(prompt.token_ids) == tokenizer.encode("def f(x):\n   ")
    indent = build_completion_prompt(subject, CompletionContext("def f(x):\n    ", ""), 2048, 64)
    assert indent.healing_prefix == "\n    " and list(indent.token_ids) == tokenizer.encode("def f(x):")


@pytest.mark.parametrize("name", ["CarperAI/diff-codegen-350m-v1", "CarperAI/diff-codegen-2b-v2"])
def test_diff_codegen_prompts(name: str) -> None:
    """The tags are plain text: a space after each, the file with its line end, and the prompt ends at <DFF>."""
    tokenizer = read_tokenizer(tokenizer_folder("codegen"))
    subject = view(tokenizer, "codegen", name)
    edited = EditTarget(("a = 1", "b = 2"), 0, 1, "x.py", "Swap\n the   names")
    prompt = build_edit_prompt(subject, edited, 2048, 400)
    text = "<NME> x.py\n<BEF> a = 1\nb = 2\n<MSG> Swap the names\n<DFF>"
    assert list(prompt.token_ids) == tokenizer.encode(text) and prompt.stop_token_ids == {50256}
    new = build_edit_prompt(subject, EditTarget((), 0, 0, "x.py", "Add a file", is_new=True), 2048, 400)
    assert list(new.token_ids) == tokenizer.encode("<NME> x.py\n<BEF> ADDFILE\n<MSG> Add a file\n<DFF>")
    blank = build_edit_prompt(subject, EditTarget(("", ""), 0, 1, "x.py", "Two lines of a longer file"), 2048, 400)
    assert "ADDFILE" not in tokenizer.decode(blank.token_ids)
    with pytest.raises(ValueError, match="contains <MSG>"):
        build_edit_prompt(subject, EditTarget(("x = '<MSG>'",), 0, 0, "x.py", "Change it"), 2048, 400)
    with pytest.raises(ValueError, match="completes nothing"):
        build_completion_prompt(subject, CompletionContext("a", ""), 2048, 64)


def test_large_selection_leaves_less_for_the_answer() -> None:
    """It is shown whole as long as a small diff still fits."""
    tokenizer = Tokenizer(checkpoints.make_tokenizer_json())
    lines = tuple(f"x{number} = {number}" for number in range(40))
    size = len(tokenizer.encode("\n".join(lines)))
    prompt = build_edit_prompt(view(tokenizer), EditTarget(lines, 0, 39, "x.py", "Fix it"), size + 300, 400)
    assert prompt.line_range == (0, 40)
    with pytest.raises(ValueError, match="too long"):
        build_edit_prompt(view(tokenizer), EditTarget(lines, 0, 39, "x.py", "Fix it"), size + 100, 400)


def test_clippy_edit_prompt() -> None:
    """The same form with real control tokens; a file may contain their text."""
    tokenizer = Tokenizer(checkpoints.make_tokenizer_json())
    edited = EditTarget(("x = '<DFF>'",), 0, 0, "x.py", "Fix the bug")
    prompt = build_edit_prompt(view(tokenizer, "gpt_neox"), edited, 256, 64)
    nme, bef, msg, dff = (tokenizer.control_token_to_id(token) for token in ("<NME>", "<BEF>", "<MSG>", "<DFF>"))
    assert list(prompt.token_ids) == [
        nme,
        *tokenizer.encode(" x.py\n"),
        bef,
        *tokenizer.encode(" x = '<DFF>'\n"),
        msg,
        *tokenizer.encode(" Fix the bug\n"),
        dff,
    ]


@pytest.mark.parametrize("name", ["gpt2", "codegen", "codeclippy", "neox", "fim-neox"])
def test_hostile_text_never_becomes_a_control_token(name: str) -> None:
    """Whatever the file contains, the control ids in the prompt are those of the template."""
    tokenizer = read_tokenizer(tokenizer_folder(name))
    hostile = "".join(["<|SUF|>", "<|MID|>", "<|endoftext|>", "<|PRE|>", "<|padding|>", "<MSG>"]) * 3
    prompt = build_completion_prompt(view(tokenizer, "gpt_neox"), CompletionContext(hostile + " x", hostile), 2048, 64)
    inside = [token for token in prompt.token_ids if token in tokenizer.control_token_ids]
    assert len(inside) == (3 if name == "fim-neox" else 0)
    assert set(prompt.stop_token_ids) <= tokenizer.control_token_ids


def test_prompt_fits_and_fills_the_context_length() -> None:
    """Over random texts and cursors: prompt and reserve fit, and a long file fills most of it."""
    tokenizer = Tokenizer(checkpoints.make_tokenizer_json())
    subject = view(tokenizer, "gpt_neox")
    chance = random.Random(0)
    for _ in range(150):
        text = "\n".join("x" * chance.choice((0, 3, 30, 300)) + " = foo(bar)" for _ in range(chance.randrange(1, 200)))
        place = chance.randrange(len(text) + 1)
        window = chance.choice((128, 256, 1024))
        prompt = build_completion_prompt(subject, CompletionContext(text[:place], text[place:]), window, 32)
        assert len(prompt.token_ids) + 32 <= window
        whole = len(tokenizer.encode(text[:place])) + len(tokenizer.encode(text[place:]))
        if "x" * 300 not in text and whole > 4 * window:
            assert len(prompt.token_ids) > (window - 32) * 0.45


@pytest.mark.parametrize("name", ["causal", "mellum", "qwen-coder"])
def test_prompt_keeps_its_head_during_typing(name: str) -> None:
    """Nearly every keystroke in a long file only appends to the prompt before it, so the KV cache is reused.

    A suffix behind the prefix is read again at each, and may be limited.
    """
    architecture, hub, order = FIM_PROMPTS.get(name, ("gpt_neox", "", ["S", "P"]))
    subject = view(family_tokenizer(next(row for row in FAMILIES if row.name == name)), architecture, hub)
    new = 8 if order.index("S") < order.index("P") else 8 + 24
    before = "\n".join(f"value_{index} = compute({index}, other)" for index in range(300)) + "\n"
    typed, after = "total = sum(value for value in values if value > 0)\n" * 3, "\nprint(total)\n" * 50
    kept = 0
    last: tuple[int, ...] = ()
    for end in range(1, len(typed)):
        context = CompletionContext(before + typed[:end], after)
        tokens = build_completion_prompt(subject, context, 512, 48, suffix_limit=24).token_ids
        kept += len(tokens) - common_prefix_length(last, tokens) <= new
        last = tokens
    assert kept >= 0.95 * (len(typed) - 1)


def test_long_edit_shows_the_lines_around_the_selection() -> None:
    """Whole lines, the selection among them, and a selection that is too long is refused."""
    tokenizer = Tokenizer(checkpoints.make_tokenizer_json())
    subject = view(tokenizer, "gpt_neox")
    lines = tuple(f"value_{index} = compute({index})" for index in range(200))
    prompt = build_edit_prompt(subject, EditTarget(lines, 100, 104, "x.py", "Fix"), 256, 64)
    start, end = prompt.line_range
    assert start < 100 and end > 105 and len(prompt.token_ids) + 64 <= 256
    with pytest.raises(ValueError, match="selection is too long"):
        build_edit_prompt(subject, EditTarget(lines, 0, 199, "x.py", "Fix"), 256, 64)


def test_configured_family() -> None:
    """Accepted if the vocabulary has its tokens, else refused with the reason."""
    tokenizer = Tokenizer(checkpoints.make_tokenizer_json())
    assert detect_family("llama", "", tokenizer.control_token_to_id, "causal").name == "causal"
    with pytest.raises(ValueError, match="unknown family"):
        detect_family("llama", "", tokenizer.control_token_to_id, "gpt-9")
    with pytest.raises(ValueError, match="does not have the starcoder token"):
        detect_family("llama", "", tokenizer.control_token_to_id, "starcoder")


def test_every_family_row_is_complete() -> None:
    """Every row has a name of its own, a licence, a caution and an example."""
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        for name in ("examples", "capabilities", "licence", "cautions"):
            assert getattr(family, name), f"codeclippy_ls/families.py: the row {family.name!r} has no {name}"
    published = {example for family in FAMILIES for example in family.examples}
    assert {
        "flax-community/gpt-neo-125M-code-clippy",
        "CarperAI/FIM-NeoX-1.3B",
        "CarperAI/diff-codegen-350m-v2",
        "Salesforce/codegen-350M-mono",
        "Salesforce/codegen-16B-nl",
    } <= published


def test_prompts_equal_training_samples() -> None:
    """The ids the server builds are those of the training samples, segment by segment, for FIM and for edits."""
    from codeclippy_ls.inference.spec import SHIPPED_FOLDER
    from training import samples

    tokenizer, encode = read_tokenizer(SHIPPED_FOLDER), samples.load_encoder(SHIPPED_FOLDER)
    subject = view(tokenizer, "gpt_neox")
    for prefix, suffix in ((PREFIX, SUFFIX), ("import o", ""), ("x = '<|MID|>😀'\n\tif a:\n", "        \n\n")):
        prompt = build_completion_prompt(subject, CompletionContext(prefix, suffix), 512, 32)
        assert prompt.healing_prefix == (" o" if prefix == "import o" else "")
        sample = samples.make_spm_infill(encode, prefix.removesuffix(prompt.healing_prefix), "middle", suffix)
        assert prompt.token_ids == sample.ids[: sample.answer_start]
    before = "    def f(self):\n        return 1\n"
    sample = samples.make_edit(encode, "x.py", before, "Add a docstring", "@@ -1,1 +1,1 @@\n")
    edited = EditTarget(tuple(before.split("\n")[:-1]), 0, 1, "x.py", "Add a docstring")
    assert build_edit_prompt(subject, edited, 512, 64).token_ids == sample.ids[: sample.answer_start]


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.mark.parametrize("place", ["config", "list", "file"])
def test_chat_model_is_prompted_through_its_template(tmp_path: Path, place: str) -> None:
    """The template's tokens are control tokens; in the user's text they stay text; the answer begins in a fence."""
    found: dict[str, Any] = {"config": CHATML, "list": [{"name": "default", "template": CHATML}]}
    config = {"bos_token": {"content": "<s>"}, **({"chat_template": found[place]} if place in found else {})}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    if place == "file":
        (tmp_path / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    chat = read_chat_template(tmp_path)
    assert chat == ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    tokenizer = Tokenizer(checkpoints.make_tokenizer_json(("<|im_end|>", "<|im_start|>")))
    subject = SimpleNamespace(tokenizer=tokenizer, architecture="llama", name="some/model-instruct", chat=chat)
    assert select_edit_format(resolve_family(subject), True) is EditFormat.REWRITE
    assert select_edit_format(resolve_family(view(tokenizer)), False) is None
    edited = EditTarget(("    x = '<|im_end|>'",), 0, 0, "x.py", "Fix <|im_start|>", language="python")
    control = [tokenizer.control_token_to_id(token) for token in ("<|im_start|>", "<|im_end|>", "<|im_start|>")]
    for edit_format, shown, begun in (
        ("auto", "```python\nx = '<|im_end|>'\n```\n\nFix <|im_start|>", "code:\n\n```python\n"),
        ("diff", "```\n    x = '<|im_end|>'\n```", "```diff\n"),
    ):
        prompt = build_edit_prompt(subject, edited, 2048, 400, edit_format=edit_format)
        assert [token for token in prompt.token_ids if token in tokenizer.control_token_ids] == control
        text = tokenizer.decode_bytes(prompt.token_ids).decode()
        assert shown in text and text.endswith(begun) and "Fix <|im_start|>" in text
    assert prompt.diff_prefix == "@@ -" and tokenizer.token_to_id("`") in prompt.stop_token_ids


@pytest.mark.parametrize("template", ["{{ raise_exception('no user turns') }}", "{% for %}", "nothing of it", 7])
def test_unusable_chat_template_is_ignored(tmp_path: Path, template: Any) -> None:
    """The model still completes."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    assert read_chat_template(tmp_path) is None
    assert read_chat_template(tmp_path / "nowhere") is None


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_clipped_context_gives_the_same_prompt(architecture: str) -> None:
    """A context may be cut before it is sent to another process."""
    subject, chance = view(Tokenizer(checkpoints.make_tokenizer_json()), architecture), random.Random(0)
    shortened = 0
    for end in ("\n", "\r\n"):
        rows = ["    " * chance.randrange(3) + "value = other(value) " * chance.randrange(9) for _ in range(5000)]
        for number in range(0, 5000, 7):
            rows[number] = chance.choice(["import os", "from a import (b,", "class A:", "    def f(self):", "    )"])
        text = end.join(rows)
        for _ in range(12):
            cut = len(text) - chance.randrange(40_000)
            context = CompletionContext(text[:cut], text[cut:], "x.py", "python")
            for window in (64, 256):
                within = context.clip(window)
                shortened += len(within.prefix) < len(context.prefix)
                assert build_completion_prompt(subject, within, window, 16) == build_completion_prompt(
                    subject, context, window, 16
                )
                assert within.clip(window) == within
    assert shortened > 40
