"""Settings: one frozen tree, made from the options that a client sent.

*Options* are what a client sends, camelCase and untrusted; *settings* are what was resolved. A bad value affects only
its own field, which keeps its default, and is reported. A workspace may be somebody else's: it can only tighten what
the user has set. Each setting declares the `WorkspaceRule` for it. Knows nothing of its readers.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

# The steps of `postprocess.cleanup.STEPS`, and the syntax check; `tests/test_cleanup.py` compares them.
CLEAN_UP_STEPS = (
    "wrapping",
    "unprintable",
    "controlTokens",
    "lineStart",
    "duplicateSpace",
    "indentation",
    "scope",
    "repetition",
    "overlap",
    "trailingWhitespace",
    "duplicateText",
    "duplicateLine",
    "trivial",
    "closingBrackets",
    "syntaxCheck",
)
DEFAULT_PRESETS = ("Add a docstring", "Add type hints", "Fix the bug")


class WorkspaceRule(enum.Enum):
    """The direction in which a workspace may change a setting; the value describes it in docs."""

    START = "no"  # decides what is loaded, executed or contacted: the user's, when the server starts
    USER = "no, only you"  # the user's, also while the server runs
    OFF = "can switch it off"
    ON = "can switch it on"
    LOWER = "can lower it"
    RAISE = "can raise it"
    ADD = "can add items"
    REMOVE = "can remove items"
    FIRST = "towards the first value"
    LAST = "towards the last value"


class Source(enum.Enum):
    """The sender of options."""

    START = enum.auto()  # the user, when the server starts
    USER = enum.auto()  # the user, while it runs
    STRANGER = enum.auto()  # whoever connects to a port, without a proof
    WORKSPACE = enum.auto()  # a workspace, or a client that does not tell it from the user


def _field(
    default: bool | int | float | str | tuple[str, ...],
    description: str,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    choices: tuple[str, ...] = (),
    workspace: WorkspaceRule,
) -> Any:
    """Declare a setting, and how a workspace may change it."""
    metadata = {
        "description": description,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "workspace": workspace,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Models by role, and where they run."""

    completion: str = _field(
        "",
        "Model for completion and infilling: a local folder, a GGUF file, `ollama:NAME` or a Hugging Face Hub name. "
        "Empty: the shipped model.",
        workspace=WorkspaceRule.START,
    )
    edit: str = _field(
        "",
        "Model for edits: a local folder, a GGUF file, `ollama:NAME` or a Hugging Face Hub name. Empty: the completion "
        "model, or the shipped model if the completion model makes no edits.",
        workspace=WorkspaceRule.START,
    )
    folders: tuple[str, ...] = _field(
        (),
        "Folders with models of your own, which `codeclippy-ls models` and the editors' lists show, too.",
        workspace=WorkspaceRule.START,
    )
    family: str = _field(
        "",
        "Family of the model, if it is not detected automatically (`codeclippy-ls models families` lists them).",
        workspace=WorkspaceRule.START,
    )
    device: str = _field(
        "auto",
        "Device that runs the model: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`, or `balanced` (split over all GPUs, with "
        "transformers and accelerate).",
        workspace=WorkspaceRule.START,
    )
    dtype: str = _field(
        "auto",
        "Number format of the weights: `int8` needs the least memory, `auto` is the fastest one on this machine.",
        choices=("auto", "float32", "bfloat16", "float16", "int8"),
        workspace=WorkspaceRule.START,
    )
    threads: int = _field(
        0,
        "Number of CPU threads that run the model; 0 measures which number is fastest.",
        0,
        256,
        workspace=WorkspaceRule.START,
    )
    engine: str = _field(
        "auto",
        "Where models run: `in-process` (in each language server), `shared` (in one process for all your editors), or "
        "`auto` (`shared` if possible).",
        choices=("auto", "in-process", "shared"),
        workspace=WorkspaceRule.START,
    )
    idle_minutes: int = _field(
        10,
        "Minutes that the shared engine process keeps its models loaded after the last editor disconnects.",
        0,
        10080,
        workspace=WorkspaceRule.START,
    )
    cache_megabytes: int = _field(
        512,
        "Maximum memory for what a model has computed from text that it read before (its KV caches), in MiB per model. "
        "With it, only the text that is new since the last key is read.",
        0,
        65536,
        workspace=WorkspaceRule.START,
    )
    endpoint: str = _field(
        "",
        "URL of a service that runs the models instead (OpenAI-compatible completions API), such as "
        "`http://127.0.0.1:8080/v1`. It must use https or be on this machine. `model.completion` and `model.edit` are "
        "then names of the service's models; empty is the first one that it lists.",
        workspace=WorkspaceRule.START,
    )
    endpoint_key_variable: str = _field(
        "",
        "Name of the environment variable that contains the API key of the endpoint; never the key itself.",
        workspace=WorkspaceRule.START,
    )
    endpoint_fim: str = _field(
        "auto",
        "How fill-in-the-middle is requested from the endpoint: `template` (prompt with the control tokens of the "
        "model's family), `suffix` (parameter of the API), `none` (send only the text before the cursor), or `auto` "
        "(`template` if the family has one, else `none`).",
        choices=("auto", "template", "suffix", "none"),
        workspace=WorkspaceRule.START,
    )
    endpoint_context_length: int = _field(
        0,
        "Maximum number of tokens in prompt and answer together at the endpoint; 0 is the context length that the "
        "endpoint reports, but at most 8192.",
        0,
        1 << 20,
        workspace=WorkspaceRule.START,
    )


@dataclass(frozen=True, slots=True)
class CompletionSettings:
    """Suggestions while typing."""

    enabled: bool = _field(
        True, "Suggest code while you type, as ghost text and in the completion list.", workspace=WorkspaceRule.OFF
    )
    max_tokens: int = _field(
        48,
        "Maximum length of a suggestion in tokens; a line of code has about 20.",
        1,
        1024,
        workspace=WorkspaceRule.LOWER,
    )
    time_budget_ms: int = _field(
        600,
        "Time limit for a suggestion while you type, in milliseconds; the whole lines and statements that were "
        "generated by then are shown. From 600 on, ghost text of a slow model gets the time that it needs for a line, "
        "up to 2000.",
        20,
        60000,
        workspace=WorkspaceRule.LOWER,
    )
    invoked_budget_ms: int = _field(
        5000,
        "Time limit for a suggestion that you ask for with a key, in milliseconds. After one second its progress is "
        "shown; the next key that you type cancels it.",
        20,
        60000,
        workspace=WorkspaceRule.LOWER,
    )
    temperature: float = _field(
        0.6,
        "How much the suggestions after the first, which is the most probable one, may differ from it (sampling "
        "temperature); 0 gives only the first.",
        0.0,
        2.0,
        workspace=WorkspaceRule.LOWER,
    )
    top_p: float = _field(
        0.95,
        "How unlikely the tokens of these other suggestions may be (top-p sampling): 1 allows any token.",
        0.01,
        1.0,
        workspace=WorkspaceRule.LOWER,
    )
    multiline: bool = _field(
        True, "Suggest several lines if no text follows the cursor on its line.", workspace=WorkspaceRule.OFF
    )
    candidates: int = _field(
        3,
        "Maximum number of suggestions if you ask for them with a key; while you type, there is one.",
        1,
        8,
        workspace=WorkspaceRule.LOWER,
    )
    min_confidence: float = _field(
        0.4,
        "How sure the model must be of a suggestion that appears while you type (mean probability of its tokens): a "
        "higher value shows fewer and better ones. With a key you get the others, too.",
        0.0,
        1.0,
        workspace=WorkspaceRule.RAISE,
    )
    prefetch: bool = _field(
        True,
        "While you rest, make the suggestion that would follow the shown one, finish one whose time was up, and let "
        "the model read the text around the cursor; never by an endpoint.",
        workspace=WorkspaceRule.OFF,
    )
    debounce: bool = _field(
        True,
        "Delay requests until you pause, if you type faster than suggestions are generated.",
        workspace=WorkspaceRule.ON,
    )
    context: str = _field(
        "auto",
        "Other files from which the model is shown parts: all of the `workspace` (by an index in your cache), files "
        "that are `open` in the editor, or none (`off`). `auto` is `workspace`, but with `model.endpoint` `open`: "
        "nothing of a closed file leaves the machine unless you say so.",
        choices=("workspace", "auto", "open", "off"),
        workspace=WorkspaceRule.LAST,
    )
    disabled_languages: tuple[str, ...] = _field(
        (),
        "Languages (LSP language identifiers) whose files no model sees: without suggestions and edits, and shown "
        "beside no other file.",
        workspace=WorkspaceRule.ADD,
    )
    disabled_paths: tuple[str, ...] = _field(
        (),
        "Files that no model sees: without suggestions and edits, and shown beside no other file. Glob patterns for "
        "the name or the whole path, such as `*.env`.",
        workspace=WorkspaceRule.ADD,
    )
    disabled_filters: tuple[str, ...] = _field(
        (),
        "Steps of the clean-up of suggestions to skip, by name.",
        choices=CLEAN_UP_STEPS,
        workspace=WorkspaceRule.REMOVE,
    )
    max_file_kilobytes: int = _field(
        4096, "Maximum size of a file that gets suggestions, in KiB.", 1, 1 << 20, workspace=WorkspaceRule.LOWER
    )
    copied_code: str = _field(
        "hide",
        "Suggestions and edits of the shipped model that copy code from its training data: `hide` them, `mark` them "
        "with the name of the package, or `show` them.",
        choices=("hide", "mark", "show"),
        workspace=WorkspaceRule.FIRST,
    )


@dataclass(frozen=True, slots=True)
class EditSettings:
    """Edits with a message."""

    enabled: bool = _field(True, "Provide edits as code actions.", workspace=WorkspaceRule.OFF)
    format: str = _field(
        "auto",
        "How the model edits: `diff` (writes a diff), `rewrite` (writes the lines anew, by instruction), `window` "
        "(writes the next version of the lines, without instructions), or `auto` (as its family does it best).",
        choices=("auto", "diff", "rewrite", "window"),
        workspace=WorkspaceRule.USER,
    )
    max_tokens: int = _field(
        400,
        "Maximum number of tokens to generate for an edit, beyond the lines that are written anew.",
        16,
        8192,
        workspace=WorkspaceRule.LOWER,
    )
    time_budget_ms: int = _field(
        60000, "Time limit for an edit, in milliseconds.", 100, 600000, workspace=WorkspaceRule.LOWER
    )
    candidates: int = _field(
        3,
        "Number of edits to generate in parallel: the best one is proposed, the others can be requested.",
        1,
        8,
        workspace=WorkspaceRule.LOWER,
    )
    temperature: float = _field(
        0.6,
        "Sampling temperature for candidates after the first (which is greedy); 0 returns only the greedy one.",
        0.0,
        2.0,
        workspace=WorkspaceRule.LOWER,
    )
    presets: tuple[str, ...] = _field(
        DEFAULT_PRESETS, "Messages that are offered as code actions.", workspace=WorkspaceRule.USER
    )
    comment_marker: str = _field(
        "clippy:",
        "Start of a comment that contains a message, as in `# clippy: add a docstring`.",
        workspace=WorkspaceRule.USER,
    )
    confirm: bool = _field(
        True, "Ask for confirmation in editors that can preview an edit.", workspace=WorkspaceRule.ON
    )
    show_diff: bool = _field(
        False,
        "Show the diff of an edit first, and let you apply it or see the next candidate.",
        workspace=WorkspaceRule.ON,
    )


@dataclass(frozen=True, slots=True)
class NextEditSettings:
    """Next edits, from the last ones."""

    enabled: str = _field(
        "auto",
        "Propose the next edit after yours, in editors that can show one: the other uses of a renamed name, the same "
        "change in other places (`auto`); or nothing (`off`).",
        choices=("auto", "off"),
        workspace=WorkspaceRule.LAST,
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a user can set."""

    model: ModelSettings = field(default_factory=ModelSettings)
    completion: CompletionSettings = field(default_factory=CompletionSettings)
    edit: EditSettings = field(default_factory=EditSettings)
    next_edit: NextEditSettings = field(default_factory=NextEditSettings)


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """A setting as docs and editors' manifests describe it.

    Attributes:
        path: its name in dotted camelCase, such as ``completion.maxTokens``.
        choices: the values that it or, for a list, each of its items can have; empty if any value is allowed.
        workspace: how a workspace may change it.
    """

    path: str
    default: bool | int | float | str | tuple[str, ...]
    description: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    workspace: WorkspaceRule

    @property
    def is_users(self) -> bool:
        """True if a workspace cannot change it at all."""
        return self.workspace in (WorkspaceRule.START, WorkspaceRule.USER)


def parse(options: Any, base: Settings | None = None, source: Source = Source.START) -> tuple[Settings, list[str]]:
    """Make settings from a client's options; return them with one message for each option that was ignored.

    Args:
        options: the client's object, in camelCase, either the tree itself or under the key ``codeclippy``.
        base: the settings that the options change; by default, the default settings.
        source: whose options they are; those of a workspace only tighten ``base``.
    """
    problems: list[str] = []
    settings = _merge(base or Settings(), _unwrap(options), "", source, problems)
    return settings, problems


def split_workspace(options: Any) -> tuple[Any, Any]:
    """Split a client's options into its own and those of the workspace, which some clients send apart."""
    options = _unwrap(options)
    if not isinstance(options, Mapping) or "workspace" not in options:
        return options, {}
    return {key: value for key, value in options.items() if key != "workspace"}, options["workspace"]


def _unwrap(options: Any) -> Any:
    """Return the tree of a client's options, which may be under the key ``codeclippy`` or absent."""
    if isinstance(options, Mapping) and "codeclippy" in options:
        inner = options["codeclippy"]
        if isinstance(inner, Mapping) or _is_empty(inner):
            options = inner
    return {} if _is_empty(options) else options


def _is_empty(options: Any) -> bool:
    """Return whether options are what clients write for an empty table: Lua ``[]``, Emacs Lisp ``null`` or ``""``."""
    return options is None or options in ([], "")


_Tree = TypeVar("_Tree")


def _merge(tree: _Tree, options: Any, parent: str, source: Source, problems: list[str]) -> _Tree:
    if not isinstance(options, Mapping):
        if _is_empty(options):
            return tree
        problems.append(f'setting "{parent or "codeclippy"}" must be an object, not {options!r:.80}; it is ignored')
        return tree
    known = {to_camel_case(member.name): member for member in fields(tree)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in options.items():
        path = f"{parent}.{key}" if parent else str(key)
        if key not in known:
            problems.append(f'unknown setting "{path}"; it is ignored')
            continue
        member = known[key]
        current = getattr(tree, member.name)
        if is_dataclass(current):
            changes[member.name] = _merge(current, value, path, source, problems)
        elif (problem := _find_problem(value, current, path, member.metadata)) is not None:
            problems.append(f"{problem}; using {json.dumps(current)}")
        elif value in ("", []) and not member.default and (value == "" or _is_for_start(member.metadata)):
            continue  # not set: clients send this for all that the user left empty
        else:
            wanted = tuple(value) if isinstance(current, tuple) else type(current)(value)
            changes[member.name] = _restrict(wanted, current, member.metadata, source)
            if changes[member.name] != wanted and member.metadata["workspace"] not in _LISTS:
                problems.append(f'setting "{path}" {_REFUSALS[source]}; using {json.dumps(changes[member.name])}')
    return replace(tree, **changes) if changes else tree  # type: ignore[type-var]


_MAX_ADDED = 200  # items of a workspace: each costs time at every key
_LISTS = (WorkspaceRule.ADD, WorkspaceRule.REMOVE)  # the result is what both say, which surprises nobody
_REFUSALS = {
    Source.USER: "needs a restart of the server",
    Source.STRANGER: "is only for whoever started the server, or with its token (--token)",
    Source.WORKSPACE: "cannot be changed like this by a workspace, only by your own settings",
}


def _restrict(wanted: Any, current: Any, metadata: Mapping[str, Any], source: Source) -> Any:
    """Return the value that a setting gets: the wanted one as far as its source may change it."""
    rule: WorkspaceRule = metadata["workspace"]
    if source is Source.START or (source is not Source.WORKSPACE and rule is not WorkspaceRule.START):
        return wanted
    if rule in (WorkspaceRule.START, WorkspaceRule.USER):
        return current
    if rule is WorkspaceRule.ADD:
        return tuple(dict.fromkeys((*current, *wanted[:_MAX_ADDED])))
    if rule is WorkspaceRule.REMOVE:
        return tuple(item for item in current if item in wanted)
    if rule in (WorkspaceRule.FIRST, WorkspaceRule.LAST):
        choose = min if rule is WorkspaceRule.FIRST else max
        return choose(wanted, current, key=metadata["choices"].index)
    return (min if rule in (WorkspaceRule.OFF, WorkspaceRule.LOWER) else max)(wanted, current)


def _find_problem(value: Any, current: Any, path: str, metadata: Mapping[str, Any]) -> str | None:
    """Return why ``value`` is not valid for a setting, or ``None`` if it is."""
    choices = metadata["choices"]
    if isinstance(current, tuple):
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) and item.strip() for item in value):
            return f'setting "{path}" must be a list of strings, not {value!r:.80}'
        unknown = next((item for item in value if choices and item not in choices), None)
    else:
        types: Any = (int, float) if isinstance(current, float) else type(current)
        if not isinstance(value, types) or (isinstance(value, bool) and not isinstance(current, bool)):
            return f'setting "{path}" must be {_TYPE_NAMES[type(current)]}, not {value!r:.80}'
        unknown = value if choices and value not in choices else None
    if unknown is not None:
        return f'unknown value {unknown!r:.80} for "{path}"; expected one of {", ".join(choices)}'
    minimum, maximum = metadata["minimum"], metadata["maximum"]
    if minimum is not None and not minimum <= value <= maximum:
        return f'setting "{path}" must be between {minimum} and {maximum}, not {value!r:.80}'
    return None


def _is_for_start(metadata: Mapping[str, Any]) -> bool:
    return metadata["workspace"] is WorkspaceRule.START


_TYPE_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def to_camel_case(name: str) -> str:
    """Convert a field's name to the name that clients use."""
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def list_settings() -> list[SettingInfo]:
    """List every setting, in order: docs and editors' manifests are compared with this list."""
    defaults = Settings()
    return [
        SettingInfo(
            path=f"{to_camel_case(section.name)}.{to_camel_case(member.name)}",
            default=getattr(getattr(defaults, section.name), member.name),
            **member.metadata,
        )
        for section in fields(Settings)
        for member in fields(getattr(defaults, section.name))
    ]
