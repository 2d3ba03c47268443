"""The table of model families: how each is recognised, which jobs it does, its tokens and their order.

Facts come from the model cards and the published code of each family; where a card and its tokenizer disagree the
tokenizer is right. A template is a sequence of parts: control tokens, looked up by exact name, literal text, and
slots for the user's text. A family is recognised by the control tokens in its vocabulary rather than by its name,
because names are chosen freely and tokens are not.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass


class Job(enum.Enum):
    """What a model can be asked for."""

    COMPLETE = "complete"
    INFILL = "infill"
    EDIT = "edit"


class Slot(enum.Enum):
    """A place in a template for the user's text."""

    PREFIX = "prefix"
    SUFFIX = "suffix"
    NAME = "name"
    DOCUMENT = "document"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Control:
    """A control token by its exact name; an ``optional`` one is left out where the vocabulary lacks it."""

    token: str
    optional: bool = False


Part = Control | str | Slot
Template = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table.

    Attributes:
        name: how settings and reports call it.
        markers: control tokens that must all be in the vocabulary.
        architectures: transformers' ``model_type``; empty is any.
        hints: parts of a hub name or folder name, lower case, one of which must occur; empty is any.
        names: parts of the name under which another program serves it, where no vocabulary is at hand.
        infill: the template for a hole, if the family was trained for it.
        edit: the template for a diff, if the family was trained for it.
        start: control token in front of every continuation.
        file: control token that begins a file, with its path and a line end, where it was trained on several at once.
        ends: control tokens that end an answer, beyond those of the checkpoint's configuration.
        ids: ids that markers must have; early uploads of some families had others, and no infill.
        licence: of the weights, as stated by the publisher.
        cautions: what its publisher asks the user to know, in our words.
        examples: hub names.
    """

    name: str
    markers: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    infill: Template | None = None
    edit: Template | None = None
    start: tuple[Control, ...] = ()
    file: str = ""
    ends: tuple[str, ...] = ()
    ids: tuple[tuple[str, int], ...] = ()
    window: int = 2048
    licence: str = "see its card"
    cautions: str = "Read its card."
    examples: tuple[str, ...] = ()
    continues: bool = True

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs it was trained for."""
        jobs = [Job.COMPLETE] if self.continues else []
        jobs += [Job.INFILL] if self.infill else []
        return (*jobs, Job.EDIT) if self.edit else tuple(jobs)


def _psm(prefix: str, suffix: str, middle: str, start: str | None = None) -> Template:
    """Prefix, suffix, middle: each control token before its text (Bavarian et al. 2022)."""
    head = (Control(start, optional=True),) if start else ()
    return (*head, Control(prefix), Slot.PREFIX, Control(suffix), Slot.SUFFIX, Control(middle))


def _spm(suffix: str, prefix: str, middle: str | None, start: str | None = None) -> Template:
    """Suffix first: the prefix then grows at the end of the prompt, and its KV cache stays valid while one types."""
    head = (Control(start, optional=True),) if start else ()
    tail = (Control(middle),) if middle else ()
    return (*head, Control(suffix), Slot.SUFFIX, Control(prefix), Slot.PREFIX, *tail)


_SEED_EDIT: Template = ("<NME> ", Slot.NAME, "\n<BEF> ", Slot.DOCUMENT, "<MSG> ", Slot.MESSAGE, "\n<DFF>")
_CLIPPY_EDIT: Template = (
    Control("<NME>"),
    " ",
    Slot.NAME,
    "\n",
    Control("<BEF>"),
    " ",
    Slot.DOCUMENT,
    Control("<MSG>"),
    " ",
    Slot.MESSAGE,
    "\n",
    Control("<DFF>"),
)

_UNFILTERED = (
    "Trained on public code that was not filtered for licences or quality: its output may be someone's code, wrong or "
    "unsafe. Read it before you rely on it; run it in a sandbox."
)
_RESEARCH = (
    "Research models: weak outside popular languages, not for code that matters without review; run generated code in "
    "a sandbox."
)
_FIM = "Suggestions may be wrong, insecure or copied from public code. Review them."

FAMILIES: tuple[Family, ...] = (
    Family(
        "clippy",
        markers=("<|SUF|>", "<|PRE|>", "<|MID|>", "<NME>", "<BEF>", "<MSG>", "<DFF>"),
        infill=_spm("<|SUF|>", "<|PRE|>", "<|MID|>"),
        edit=_CLIPPY_EDIT,
        ends=("<|endoftext|>",),
        window=1024,
        licence="Apache-2.0",
        cautions="The small model inside the package: good for short idioms, weak at everything else.",
        examples=("(shipped)",),
    ),
    Family(
        "fim-neox",
        names=("fim-neox",),
        markers=("<|SUF|>", "<|PRE|>", "<|MID|>"),
        architectures=("gpt_neox",),
        ids=(("<|SUF|>", 50277), ("<|PRE|>", 50278), ("<|MID|>", 50279)),
        infill=_spm("<|SUF|>", "<|PRE|>", "<|MID|>"),
        ends=("<|endoftext|>",),
        licence="Apache-2.0",
        cautions=_RESEARCH,
        examples=("CarperAI/FIM-NeoX-1.3B",),
    ),
    Family(
        "diff-codegen-v1",
        names=("diff-codegen-350m-v1", "diff-codegen-2b-v1", "diff-codegen-6b-v1"),
        architectures=("codegen", "phi"),
        hints=("diff-codegen-350m-v1", "diff-codegen-2b-v1", "diff-codegen-6b-v1"),
        edit=_SEED_EDIT,
        ends=("<|endoftext|>",),
        licence="MIT",
        cautions=_RESEARCH,
        continues=False,
        examples=("CarperAI/diff-codegen-350m-v1",),
    ),
    Family(
        "diff-codegen",
        names=("diff-codegen",),
        architectures=("codegen", "phi"),
        hints=("diff-codegen",),
        edit=_SEED_EDIT,
        ends=("<|endoftext|>",),
        licence="MIT",
        cautions=_RESEARCH,
        continues=False,
        examples=("CarperAI/diff-codegen-350m-v2", "CarperAI/diff-codegen-2b-v2", "CarperAI/diff-codegen-6b-v2"),
    ),
    Family(
        "codegen",
        names=("codegen-350m", "codegen-2b", "codegen-6b", "codegen-16b"),
        architectures=("codegen",),
        ends=("<|endoftext|>",),
        licence="BSD-3-Clause",
        cautions=_UNFILTERED,
        examples=tuple(
            f"Salesforce/codegen-{size}-{data}"
            for size in ("350M", "2B", "6B", "16B")
            for data in ("nl", "multi", "mono")
        ),
    ),
    Family(
        "code-clippy",
        names=("code-clippy",),
        architectures=("gpt_neo",),
        ends=("<|endoftext|>",),
        licence="not stated",
        cautions=_UNFILTERED,
        examples=("flax-community/gpt-neo-125M-code-clippy", "flax-community/gpt-neo-125M-code-clippy-dedup-2048"),
    ),
    Family(
        "santacoder",
        names=("santacoder",),
        markers=("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
        infill=_psm("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
        ends=("<|endoftext|>",),
        licence="CodeML Open RAIL-M",
        cautions=_FIM,
        examples=("bigcode/santacoder",),
    ),
    Family(
        "mellum",
        names=("mellum",),
        markers=("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        architectures=("llama",),
        hints=("mellum",),
        infill=_spm("<fim_suffix>", "<fim_prefix>", "<fim_middle>"),
        file="<filename>",
        ends=("<|endoftext|>",),
        window=8192,
        licence="Apache-2.0",
        cautions=_FIM,
        examples=("JetBrains/Mellum-4b-base",),
    ),
    Family(  # its vocabulary has StarCoder's tokens, which it was not trained with
        "opencoder",
        names=("opencoder",),
        architectures=("llama",),
        hints=("opencoder",),
        ends=("<|endoftext|>", "<|im_end|>"),
        window=8192,
        licence="OpenCoder licence (MIT-like; see its card)",
        cautions=_FIM,
        examples=("infly/OpenCoder-1.5B-Base",),
    ),
    Family(
        "starcoder",
        names=("starcoder", "granite-3b-code", "granite-8b-code", "stable-code", "refact-1"),
        markers=("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        infill=_psm("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ends=("<|endoftext|>", "<file_sep>", "<repo_name>", "<fim_prefix>"),
        window=8192,
        licence="BigCode Open RAIL-M (StarCoder), Apache-2.0 (Granite), see each card",
        cautions=_FIM,
        examples=(
            "bigcode/starcoder2-3b",
            "bigcode/tiny_starcoder_py",
            "ibm-granite/granite-3b-code-base-2k",
            "stabilityai/stable-code-3b",
            "smallcloudai/Refact-1_6B-fim",
        ),
    ),
    Family(
        "codegemma",
        names=("codegemma",),
        markers=("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_separator|>"),
        infill=_psm("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", start="<bos>"),
        start=(Control("<bos>", optional=True),),
        ends=("<|file_separator|>", "<eos>", "<|fim_prefix|>"),
        window=8192,
        licence="Gemma terms of use",
        cautions=_FIM,
        examples=("google/codegemma-2b",),
    ),
    Family(  # its vocabulary is GPT-4's, tokens for infilling with it, which it was not trained with
        "phi",
        names=("phi-3", "phi-4"),
        architectures=("phi3", "phi3small", "phimoe"),
        ends=("<|endoftext|>", "<|im_end|>", "<|end|>"),
        window=16384,
        licence="MIT",
        cautions=_FIM,
        examples=("microsoft/phi-4", "microsoft/Phi-4-mini-instruct"),
    ),
    Family(
        "qwen-coder",
        names=("qwen2.5-coder", "qwen3-coder"),
        markers=("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        infill=_psm("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        file="<|file_sep|>",
        ends=(
            "<|endoftext|>",
            "<|fim_pad|>",
            "<|file_sep|>",
            "<|repo_name|>",
            "<|fim_prefix|>",
            "<|im_end|>",
            "<|end_of_text|>",
        ),
        window=32768,
        licence="Apache-2.0 (most sizes)",
        cautions=_FIM,
        examples=("Qwen/Qwen2.5-Coder-0.5B", "Qwen/Qwen2.5-Coder-1.5B", "ibm-granite/granite-4.0-micro-base"),
    ),
    Family(
        "deepseek-coder",
        names=("deepseek-coder",),
        markers=("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
        infill=_psm("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", start="<｜begin▁of▁sentence｜>"),
        start=(Control("<｜begin▁of▁sentence｜>", optional=True),),
        ends=("<｜end▁of▁sentence｜>", "<|EOT|>"),
        window=16384,
        licence="DeepSeek model licence",
        cautions=_FIM,
        examples=("deepseek-ai/deepseek-coder-1.3b-base", "deepseek-ai/DeepSeek-Coder-V2-Lite-Base"),
    ),
    Family(
        "code-llama",
        names=("codellama", "code-llama"),
        markers=("▁<PRE>", "▁<SUF>", "▁<MID>"),
        infill=_psm("▁<PRE>", "▁<SUF>", "▁<MID>", start="<s>"),
        start=(Control("<s>", optional=True),),
        ends=("▁<EOT>", "</s>"),
        window=16384,
        licence="Llama 2 community licence",
        cautions=_FIM,
        examples=("codellama/CodeLlama-7b-hf",),
    ),
    Family(  # other Mistral vocabularies have these tokens, too
        "codestral",
        names=("codestral",),
        markers=("[SUFFIX]", "[PREFIX]"),
        hints=("codestral",),
        infill=_spm("[SUFFIX]", "[PREFIX]", None, start="<s>"),
        start=(Control("<s>", optional=True),),
        ends=("</s>",),
        window=32768,
        licence="Mistral non-production licence",
        cautions=_FIM,
        examples=("mistralai/Codestral-22B-v0.1",),
    ),
    Family(
        "seed-coder",
        names=("seed-coder",),
        markers=("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"),
        infill=_spm("<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>", start="<[begin▁of▁sentence]>"),
        start=(Control("<[begin▁of▁sentence]>", optional=True),),
        ends=("<[end▁of▁sentence]>",),
        window=32768,
        licence="MIT",
        cautions=_FIM,
        examples=("ByteDance-Seed/Seed-Coder-8B-Base",),
    ),
    Family(
        "causal",
        start=tuple(Control(token, optional=True) for token in ("<s>", "<|begin_of_text|>", "<bos>")),
        ends=("</s>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>"),
        licence="see its card",
        cautions="Any other causal language model: it continues text and nothing else.",
        examples=("any decoder-only model that transformers loads",),
    ),
)

_BY_NAME = {family.name: family for family in FAMILIES}


def detect_family(architecture: str, name: str, token_to_id: Callable[[str], int | None], wanted: str = "") -> Family:
    """The family of a checkpoint; the last row, plain continuation, where nothing more is known.

    Args:
        architecture: transformers' ``model_type``.
        name: the hub name or folder, for families whose vocabulary does not tell.
        token_to_id: a control token's id by exact name, ``None`` where there is none.
        wanted: a family named in the settings, which is believed where the vocabulary can do it.

    Raises:
        ValueError: the family named in the settings does not exist or does not fit the vocabulary.
    """
    if wanted:
        return _named(wanted, token_to_id)
    lowered = name.replace("\\", "/").rstrip("/").lower().rsplit("/", 1)[-1]  # of a path, the folder alone
    for family in FAMILIES:
        if family.architectures and architecture not in family.architectures:
            continue
        if family.hints and not any(hint in lowered for hint in family.hints):
            continue
        if _fits(family, token_to_id):
            return family
    return FAMILIES[-1]


def detect_served_family(name: str, wanted: str = "") -> Family:
    """The family of a model that another program serves under a name; a family named in the settings is believed.

    Raises:
        ValueError: the family named in the settings does not exist.
    """
    if wanted:
        return _known(wanted)
    lowered = name.lower()
    return next((family for family in FAMILIES if any(part in lowered for part in family.names)), FAMILIES[-1])


def _fits(family: Family, token_to_id: Callable[[str], int | None]) -> bool:
    return all(token_to_id(marker) is not None for marker in family.markers) and all(
        token_to_id(token) == id for token, id in family.ids
    )


def _named(wanted: str, token_to_id: Callable[[str], int | None]) -> Family:
    family = _known(wanted)
    if not _fits(family, token_to_id):
        missing = [marker for marker in family.markers if token_to_id(marker) is None] or [
            token for token, _ in family.ids
        ]
        raise ValueError(f'setting "family": the model\'s vocabulary does not have the {wanted} token {missing[0]!r}')
    return family


def _known(wanted: str) -> Family:
    if (family := _BY_NAME.get(wanted)) is None:
        raise ValueError(f'setting "family": {wanted!r} is none of {", ".join(_BY_NAME)}')
    return family
