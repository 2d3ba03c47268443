"""Table of model families: how each is detected, its capabilities, its control tokens and their order.

Facts come from the model cards and the published code of each family; if a card and its tokenizer disagree, the
tokenizer is right. A template is a sequence of parts: control tokens, looked up by exact name, literal text, and slots
for the user's text. A family is detected by the control tokens in its vocabulary rather than by its name, because
names are chosen freely and tokens are not. Knows no tokenizer and no prompt.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass


class Capability(enum.Enum):
    """A task that a model can be trained for."""

    COMPLETION = "completion"
    FIM = "fim"
    EDIT = "edit"


class EditFormat(enum.Enum):
    """Form of a model's edits."""

    DIFF = "diff"  # a unified diff, held to a grammar
    REWRITE = "rewrite"  # the lines anew, in a fence, by instruction
    WINDOW = "window"  # the lines anew, as the next version of a file among several


class Slot(enum.Enum):
    """Position in a template for the user's text."""

    PREFIX = "prefix"
    SUFFIX = "suffix"
    NAME = "name"
    DOCUMENT = "document"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Control:
    """A control token by its exact name; an ``optional`` one is left out if the vocabulary lacks it."""

    token: str
    optional: bool = False


Part = Control | str | Slot
Template = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table.

    Attributes:
        name: its name in settings and reports.
        required_tokens: control tokens that must all be in the vocabulary.
        model_types: transformers' ``model_type``; empty is any.
        name_hints: parts of a hub name or folder name, lower case, one of which must occur; empty is any.
        served_names: parts of the name under which another program serves it, if no vocabulary is at hand.
        fim_template: fill-in-the-middle template, if the family was trained for it.
        edit_template: template for a diff, if the family was trained for it.
        edit_format: how it edits, whether it follows instructions or not; ``None``: see `select_edit_format`.
        bos_tokens: control tokens in front of every continuation.
        file_token: control token that begins a file, followed by its path and a line end, if the family was trained on
            several files at once.
        repository_token: control token in front of the repository's name, before the first file.
        file_head: line that begins a file, with ``{path}``, if the family was trained on several files without a token.
        stop_tokens: control tokens that end an answer, beyond those of the checkpoint's configuration.
        required_ids: ids that tokens must have; early uploads of some families had others, and no FIM.
        context_length: tokens of the training context.
        licence: of the weights, as stated by the publisher.
        cautions: what its publisher asks the user to know, in our words.
        examples: hub names.
        supports_completion: false if it writes diffs only.
    """

    name: str
    required_tokens: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    name_hints: tuple[str, ...] = ()
    served_names: tuple[str, ...] = ()
    fim_template: Template | None = None
    edit_template: Template | None = None
    edit_format: EditFormat | None = None
    bos_tokens: tuple[Control, ...] = ()
    file_token: str = ""
    repository_token: str = ""
    file_head: str = ""
    stop_tokens: tuple[str, ...] = ()
    required_ids: tuple[tuple[str, int], ...] = ()
    context_length: int = 2048
    licence: str = "see its card"
    cautions: str = "Read its card."
    examples: tuple[str, ...] = ()
    supports_completion: bool = True

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        """Tasks it was trained for."""
        found = [Capability.COMPLETION] if self.supports_completion else []
        found += [Capability.FIM] if self.fim_template else []
        return (*found, Capability.EDIT) if self.edit_template else tuple(found)

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """All control tokens of the row."""
        templates = (self.fim_template or (), self.edit_template or (), self.bos_tokens)
        found = [part.token for template in templates for part in template if isinstance(part, Control)]
        found += [*self.required_tokens, *self.stop_tokens]
        found += [token for token in (self.file_token, self.repository_token) if token]
        return tuple(dict.fromkeys(found))


def _psm_template(prefix: str, suffix: str, middle: str, bos: str | None = None) -> Template:
    """Prefix, suffix, middle: each control token before its text (Bavarian et al. 2022)."""
    head = (Control(bos, optional=True),) if bos else ()
    return (*head, Control(prefix), Slot.PREFIX, Control(suffix), Slot.SUFFIX, Control(middle))


def _spm_template(suffix: str, prefix: str, middle: str | None, bos: str | None = None) -> Template:
    """Suffix first: the prefix then grows at the end of the prompt, and its KV cache stays valid during typing."""
    head = (Control(bos, optional=True),) if bos else ()
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
        required_tokens=("<|SUF|>", "<|PRE|>", "<|MID|>", "<NME>", "<BEF>", "<MSG>", "<DFF>"),
        fim_template=_spm_template("<|SUF|>", "<|PRE|>", "<|MID|>"),
        edit_template=_CLIPPY_EDIT,
        edit_format=EditFormat.DIFF,
        stop_tokens=("<|endoftext|>",),
        context_length=1024,
        licence="Apache-2.0",
        cautions="The small model inside the package: good for short idioms, weak at everything else.",
        examples=("(shipped)",),
    ),
    Family(
        "fim-neox",
        served_names=("fim-neox",),
        required_tokens=("<|SUF|>", "<|PRE|>", "<|MID|>"),
        model_types=("gpt_neox",),
        required_ids=(("<|SUF|>", 50277), ("<|PRE|>", 50278), ("<|MID|>", 50279)),
        fim_template=_spm_template("<|SUF|>", "<|PRE|>", "<|MID|>"),
        stop_tokens=("<|endoftext|>",),
        licence="Apache-2.0",
        cautions=_RESEARCH,
        examples=("CarperAI/FIM-NeoX-1.3B",),
    ),
    Family(
        "diff-codegen-v1",
        served_names=("diff-codegen-350m-v1", "diff-codegen-2b-v1", "diff-codegen-6b-v1"),
        model_types=("codegen", "phi"),
        name_hints=("diff-codegen-350m-v1", "diff-codegen-2b-v1", "diff-codegen-6b-v1"),
        edit_template=_SEED_EDIT,
        edit_format=EditFormat.DIFF,
        stop_tokens=("<|endoftext|>",),
        licence="MIT",
        cautions=_RESEARCH,
        supports_completion=False,
        examples=("CarperAI/diff-codegen-350m-v1",),
    ),
    Family(
        "diff-codegen",
        served_names=("diff-codegen",),
        model_types=("codegen", "phi"),
        name_hints=("diff-codegen",),
        edit_template=_SEED_EDIT,
        edit_format=EditFormat.DIFF,
        stop_tokens=("<|endoftext|>",),
        licence="MIT",
        cautions=_RESEARCH,
        supports_completion=False,
        examples=("CarperAI/diff-codegen-350m-v2", "CarperAI/diff-codegen-2b-v2", "CarperAI/diff-codegen-6b-v2"),
    ),
    Family(
        "codegen",
        served_names=("codegen-350m", "codegen-2b", "codegen-6b", "codegen-16b"),
        model_types=("codegen",),
        stop_tokens=("<|endoftext|>",),
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
        served_names=("code-clippy",),
        model_types=("gpt_neo",),
        stop_tokens=("<|endoftext|>",),
        licence="not stated",
        cautions=_UNFILTERED,
        examples=("flax-community/gpt-neo-125M-code-clippy", "flax-community/gpt-neo-125M-code-clippy-dedup-2048"),
    ),
    Family(
        "santacoder",
        served_names=("santacoder",),
        required_tokens=("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
        fim_template=_psm_template("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
        stop_tokens=("<|endoftext|>",),
        licence="CodeML Open RAIL-M",
        cautions=_FIM,
        examples=("bigcode/santacoder",),
    ),
    Family(
        "mellum",
        served_names=("mellum",),
        required_tokens=("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        model_types=("llama",),
        name_hints=("mellum",),
        fim_template=_spm_template("<fim_suffix>", "<fim_prefix>", "<fim_middle>"),
        file_token="<filename>",
        stop_tokens=("<|endoftext|>",),
        context_length=8192,
        licence="Apache-2.0",
        cautions=_FIM,
        examples=("JetBrains/Mellum-4b-base",),
    ),
    Family(  # its vocabulary has StarCoder's tokens, which it was not trained with
        "opencoder",
        served_names=("opencoder",),
        model_types=("llama",),
        name_hints=("opencoder",),
        stop_tokens=("<|endoftext|>", "<|im_end|>"),
        context_length=8192,
        licence="OpenCoder licence (MIT-like; see its card)",
        cautions=_FIM,
        examples=("infly/OpenCoder-1.5B-Base",),
    ),
    Family(
        "starcoder2",
        served_names=("starcoder2",),
        required_tokens=("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>", "<repo_name>"),
        fim_template=_psm_template("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        file_token="<file_sep>",
        repository_token="<repo_name>",
        stop_tokens=("<|endoftext|>", "<file_sep>", "<repo_name>", "<fim_prefix>"),
        context_length=16384,
        licence="BigCode Open RAIL-M",
        cautions=_FIM,
        examples=("bigcode/starcoder2-3b",),
    ),
    Family(
        "starcoder",
        served_names=("starcoder", "granite-3b-code", "granite-8b-code", "stable-code", "refact-1"),
        required_tokens=("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        fim_template=_psm_template("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        stop_tokens=("<|endoftext|>", "<filename>", "<fim_prefix>"),
        context_length=8192,
        licence="BigCode Open RAIL-M (StarCoder), Apache-2.0 (Granite), see each card",
        cautions=_FIM,
        examples=(
            "bigcode/tiny_starcoder_py",
            "ibm-granite/granite-3b-code-base-2k",
            "stabilityai/stable-code-3b",
            "smallcloudai/Refact-1_6B-fim",
        ),
    ),
    Family(
        "codegemma",
        served_names=("codegemma",),
        required_tokens=("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_separator|>"),
        fim_template=_psm_template("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", bos="<bos>"),
        bos_tokens=(Control("<bos>", optional=True),),
        stop_tokens=("<|file_separator|>", "<eos>", "<|fim_prefix|>"),
        context_length=8192,
        licence="Gemma terms of use",
        cautions=_FIM,
        examples=("google/codegemma-2b",),
    ),
    Family(  # its vocabulary is GPT-4's, including FIM tokens, which it was not trained with
        "phi",
        served_names=("phi-3", "phi-4"),
        model_types=("phi3", "phi3small", "phimoe"),
        stop_tokens=("<|endoftext|>", "<|im_end|>", "<|end|>"),
        context_length=16384,
        licence="MIT",
        cautions=_FIM,
        examples=("microsoft/phi-4", "microsoft/Phi-4-mini-instruct"),
    ),
    Family(
        "qwen-coder",
        served_names=("qwen2.5-coder", "qwen3-coder"),
        required_tokens=("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        fim_template=_psm_template("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        file_token="<|file_sep|>",
        repository_token="<|repo_name|>",
        stop_tokens=(
            "<|endoftext|>",
            "<|fim_pad|>",
            "<|file_sep|>",
            "<|repo_name|>",
            "<|fim_prefix|>",
            "<|im_end|>",
            "<|end_of_text|>",
        ),
        context_length=32768,
        licence="Apache-2.0 (most sizes)",
        cautions=_FIM,
        examples=("Qwen/Qwen2.5-Coder-0.5B", "Qwen/Qwen2.5-Coder-1.5B", "ibm-granite/granite-4.0-micro-base"),
    ),
    Family(
        "deepseek-coder",
        served_names=("deepseek-coder",),
        required_tokens=("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
        fim_template=_psm_template("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", bos="<｜begin▁of▁sentence｜>"),
        file_head="#{path}",
        bos_tokens=(Control("<｜begin▁of▁sentence｜>", optional=True),),
        stop_tokens=("<｜end▁of▁sentence｜>", "<|EOT|>"),
        context_length=16384,
        licence="DeepSeek model licence",
        cautions=_FIM,
        examples=("deepseek-ai/deepseek-coder-1.3b-base", "deepseek-ai/DeepSeek-Coder-V2-Lite-Base"),
    ),
    Family(
        "code-llama",
        served_names=("codellama", "code-llama"),
        required_tokens=("▁<PRE>", "▁<SUF>", "▁<MID>"),
        fim_template=_psm_template("▁<PRE>", "▁<SUF>", "▁<MID>", bos="<s>"),
        bos_tokens=(Control("<s>", optional=True),),
        stop_tokens=("▁<EOT>", "</s>"),
        context_length=16384,
        licence="Llama 2 community licence",
        cautions=_FIM,
        examples=("codellama/CodeLlama-7b-hf",),
    ),
    Family(  # other Mistral vocabularies have these tokens as well
        "codestral",
        served_names=("codestral",),
        required_tokens=("[SUFFIX]", "[PREFIX]"),
        name_hints=("codestral",),
        fim_template=_spm_template("[SUFFIX]", "[PREFIX]", None, bos="<s>"),
        file_head="+++++ {path}",
        bos_tokens=(Control("<s>", optional=True),),
        stop_tokens=("</s>",),
        context_length=32768,
        licence="Mistral non-production licence",
        cautions=_FIM,
        examples=("mistralai/Codestral-22B-v0.1",),
    ),
    Family(
        "seed-coder",
        served_names=("seed-coder",),
        required_tokens=("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"),
        fim_template=_spm_template("<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>", bos="<[begin▁of▁sentence]>"),
        bos_tokens=(Control("<[begin▁of▁sentence]>", optional=True),),
        stop_tokens=("<[end▁of▁sentence]>",),
        context_length=32768,
        licence="MIT",
        cautions=_FIM,
        examples=("ByteDance-Seed/Seed-Coder-8B-Base",),
    ),
    Family(
        "causal",
        bos_tokens=tuple(Control(token, optional=True) for token in ("<s>", "<|begin_of_text|>", "<bos>")),
        stop_tokens=("</s>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>"),
        licence="see its card",
        cautions="Any other causal language model: it continues text and nothing else.",
        examples=("any decoder-only model that transformers loads",),
    ),
)

_BY_NAME = {family.name: family for family in FAMILIES}
# Tokens of BPE and SentencePiece vocabularies that are common markup in code and prose.
MARKUP_TOKENS = frozenset({"<s>", "</s>", "<bos>", "<eos>", "<NME>", "<BEF>", "<MSG>", "<DFF>", "<filename>"})


def detect_family(model_type: str, name: str, id_of: Callable[[str], int | None], configured: str = "") -> Family:
    """Detect the family of a checkpoint; if nothing is known, return the last row, plain continuation.

    Args:
        model_type: as transformers calls it.
        name: hub name or folder, for families that the vocabulary does not tell apart.
        id_of: returns a control token's id by exact name, or ``None``.
        configured: family named in the settings; it is believed if the vocabulary has its tokens.

    Raises:
        ValueError: the configured family does not exist or does not fit the vocabulary.
    """
    if configured:
        return _get_configured(configured, id_of)
    folder = name.replace("\\", "/").rstrip("/").lower().rsplit("/", 1)[-1]
    for family in FAMILIES:
        if family.model_types and model_type not in family.model_types:
            continue
        if family.name_hints and not any(hint in folder for hint in family.name_hints):
            continue
        if _fits_vocabulary(family, id_of):
            return family
    return FAMILIES[-1]


def detect_served_family(name: str, configured: str = "") -> Family:
    """Detect the family of a model that another program serves under a name; a configured family is believed.

    Raises:
        ValueError: the configured family does not exist.
    """
    if configured:
        return _get_family(configured)
    lowered = name.lower()
    return next((family for family in FAMILIES if any(part in lowered for part in family.served_names)), FAMILIES[-1])


def select_edit_format(family: Family, is_chat: bool, configured: str = "auto") -> EditFormat | None:
    """Return how a model edits; ``None`` if it cannot.

    By the family's row, else by rewriting if it follows instructions, else as the next version of a file if it was
    trained on several files at once.

    Args:
        configured: a format's name in the settings, or ``auto``.

    Raises:
        ValueError: the model cannot edit in the configured format.
    """
    supported = [EditFormat.DIFF] if family.edit_template is not None else []
    supported += [EditFormat.REWRITE, EditFormat.DIFF] if is_chat else []
    supported += [EditFormat.WINDOW] if family.file_token else []
    if configured in ("", "auto"):
        return family.edit_format or next(iter(supported), None)
    if (chosen := EditFormat(configured)) not in supported:
        needs = {
            EditFormat.DIFF: "was trained on diffs or follows instructions",
            EditFormat.REWRITE: "follows instructions (has a chat template)",
            EditFormat.WINDOW: "was trained on several files at once",
        }
        raise ValueError(f'setting "edit.format": {configured!r} needs a model that {needs[chosen]}; set "auto"')
    return chosen


def list_control_tokens(families: Iterable[Family] = FAMILIES) -> tuple[str, ...]:
    """List the control tokens of families, each once."""
    return tuple(dict.fromkeys(token for family in families for token in family.control_tokens))


def _fits_vocabulary(family: Family, id_of: Callable[[str], int | None]) -> bool:
    return all(id_of(token) is not None for token in family.required_tokens) and all(
        id_of(token) == id for token, id in family.required_ids
    )


def _get_configured(name: str, id_of: Callable[[str], int | None]) -> Family:
    family = _get_family(name)
    if not _fits_vocabulary(family, id_of):
        missing = [token for token in family.required_tokens if id_of(token) is None]
        missing = missing or [token for token, _ in family.required_ids]
        raise ValueError(
            f'setting "model.family": the model\'s vocabulary does not have the {name} token {missing[0]!r}'
        )
    return family


def _get_family(name: str) -> Family:
    if (family := _BY_NAME.get(name)) is None:
        raise ValueError(f'setting "model.family": unknown family {name!r}; expected one of {", ".join(_BY_NAME)}')
    return family
