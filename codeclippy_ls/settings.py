"""Settings: one frozen tree, made from what a client sent.

*Options* are what a client sends, camelCase and untrusted; *settings* are what was resolved. A bad value costs only
its own field, which keeps its default, and is reported. A key that decides what is loaded, executed or spoken to may
not come from a workspace. Knows nothing of who reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

# The steps of `postprocess.cleanup.STEPS`, and the syntax check; `tests/test_cleanup.py` compares them.
CLEAN_UP_STEPS = (
    "unprintable",
    "controlTokens",
    "duplicateSpace",
    "indentation",
    "scope",
    "repetition",
    "overlap",
    "closingBrackets",
    "trailingWhitespace",
    "duplicateText",
    "duplicateLine",
    "trivial",
    "syntaxCheck",
)
DEFAULT_PRESETS = ("Add a docstring", "Add type hints", "Fix the bug")


def _field(
    default: Any,
    help: str,
    least: float | None = None,
    most: float | None = None,
    *,
    choices: tuple[str, ...] = (),
    restricted: bool = False,
) -> Any:
    """A setting with its meaning, its limits, and whether a workspace must not set it."""
    facts = {"help": help, "least": least, "most": most, "choices": choices, "restricted": restricted}
    return field(default=default, metadata=facts)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which model does a job, and where it runs."""

    completion: str = _field(
        "", "Model for completion and infilling: a folder or a hub name; empty is the shipped model.", restricted=True
    )
    edit: str = _field(
        "",
        "Model for edits; empty is the model for completion, or the shipped one where that writes no diffs.",
        restricted=True,
    )
    family: str = _field(
        "", "Family of the model, where it is not recognised by itself (see `codeclippy-ls models`).", restricted=True
    )
    device: str = _field(
        "auto",
        "Where it runs: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`, or `balanced`: all GPUs "
        "together, by transformers and accelerate.",
        restricted=True,
    )
    dtype: str = _field(
        "auto",
        "Number format of the weights: `auto` (the fastest here), `float32`, `bfloat16`, `float16`, `int8`.",
        choices=("auto", "float32", "bfloat16", "float16", "int8"),
        restricted=True,
    )
    threads: int = _field(0, "CPU threads of the engine; 0 finds out how many are fastest.", 0, 256, restricted=True)
    engine: str = _field(
        "auto",
        "Where the engine runs: `in-process`, a thread of the server; `shared`, one "
        "process for all your editors; `auto`, shared if possible.",
        choices=("auto", "in-process", "shared"),
        restricted=True,
    )
    idle_minutes: int = _field(
        10, "Minutes that the host stays, with its models, when no editor is connected.", 0, 10080, restricted=True
    )
    cache_megabytes: int = _field(512, "Memory for the KV caches of earlier prompts, per model.", 0, 65536)
    endpoint: str = _field(
        "",
        "A service that runs the models instead, by OpenAI's completions interface, such as "
        "`http://127.0.0.1:8080/v1`: https, or this machine itself. The names of models are "
        "its own; empty is the first that it lists.",
        restricted=True,
    )
    endpoint_key_variable: str = _field(
        "", "Environment variable that holds the service's key; never the key itself.", restricted=True
    )
    endpoint_fim: str = _field(
        "auto",
        "How the service is asked to fill a hole: by our `template` of the model's "
        "family, by the interface's `suffix`, or not (`none`); `auto` is the "
        "template where the family has one.",
        choices=("auto", "template", "suffix", "none"),
        restricted=True,
    )
    endpoint_context_length: int = _field(
        0,
        "Tokens that prompt and answer have together at the service; 0 is what it says, and 8192 at most.",
        0,
        1 << 20,
        restricted=True,
    )


@dataclass(frozen=True, slots=True)
class CompletionSettings:
    """Suggestions while typing."""

    enabled: bool = _field(True, "Answer completion and inline completion.")
    max_tokens: int = _field(48, "Most tokens of a suggestion.", 1, 1024)
    time_budget_ms: int = _field(600, "Milliseconds for a suggestion; what there is by then is shown.", 20, 60000)
    temperature: float = _field(
        0.6, "Of the candidates after the first, which is greedy; 0 makes that the only one.", 0.0, 2.0
    )
    top_p: float = _field(0.95, "Mass of the nucleus that is sampled from where the temperature is above 0.", 0.01, 1.0)
    multiline: bool = _field(True, "Suggest more than a line where nothing follows the cursor on its line.")
    candidates: int = _field(3, "Most suggestions for a request by key; one for a request by typing.", 1, 8)
    min_confidence: float = _field(
        0.4,
        "Suggestions of which the model is less sure (mean probability per token) "
        "do not come by themselves, only by key.",
        0.0,
        1.0,
    )
    prefetch: bool = _field(
        True,
        "While a suggestion is shown and nothing else is to do, make the one that would follow it; never by a service.",
    )
    debounce: bool = _field(True, "Let requests wait for a pause where keys come faster than answers.")
    context: str = _field(
        "open",
        "Show the model passages of other files: of those that are `open` in the editor, or `off`.",
        choices=("open", "off"),
    )
    disabled_languages: tuple[str, ...] = _field((), "Languages (as the editor calls them) without suggestions.")
    disabled_paths: tuple[str, ...] = _field(
        (), "Files without suggestions: patterns for a name or a whole path, as in `*.env`."
    )
    disabled_filters: tuple[str, ...] = _field(
        (), "Steps of the clean-up that are left out, by name.", choices=CLEAN_UP_STEPS
    )
    max_file_kilobytes: int = _field(4096, "Larger files get no suggestions.", 1, 1 << 20)
    copied_code: str = _field(
        "hide",
        "Suggestions and edits of the shipped model that copy a passage of what it was "
        "trained on: `hide` them, `mark` them with the package's name, or `show` them.",
        choices=("hide", "mark", "show"),
    )


@dataclass(frozen=True, slots=True)
class EditSettings:
    """Edits with a message."""

    enabled: bool = _field(True, "Offer edits as code actions.")
    max_tokens: int = _field(400, "Most tokens of a diff.", 16, 8192)
    time_budget_ms: int = _field(60000, "Milliseconds for a diff.", 100, 600000)
    candidates: int = _field(3, "Diffs written side by side; the best is proposed, the others can be asked for.", 1, 8)
    temperature: float = _field(
        0.6, "Of the candidates after the first, which is greedy; 0 makes that the only one.", 0.0, 2.0
    )
    presets: tuple[str, ...] = _field(DEFAULT_PRESETS, "Messages offered as code actions.")
    comment_marker: str = _field(
        "clippy:", "A comment that begins with this holds a message: `# clippy: add a docstring`."
    )
    confirm: bool = _field(True, "Ask for confirmation in editors that can preview an edit.")
    show_diff: bool = _field(False, "Show an edit as a diff first, with the choice to apply it or to see the next one.")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a user can set."""

    model: ModelSettings = field(default_factory=ModelSettings)
    completion: CompletionSettings = field(default_factory=CompletionSettings)
    edit: EditSettings = field(default_factory=EditSettings)


def parse(options: Any, base: Settings | None = None, trusted: bool = True) -> tuple[Settings, list[str]]:
    """Settings from a client's options, and one sentence for each thing in them that was not used.

    Args:
        options: the client's object, in camelCase, either the tree itself or under the key ``codeclippy``.
        base: settings that options are laid over; the defaults where none are given.
        trusted: whether the options may hold restricted keys (a workspace's may not).
    """
    problems: list[str] = []
    if options is None:
        options = {}
    if isinstance(options, Mapping) and isinstance(options.get("codeclippy"), Mapping):
        options = options["codeclippy"]
    settings = _merge(base or Settings(), options, "", trusted, problems)
    return settings, problems


_Tree = TypeVar("_Tree")


def _merge(tree: _Tree, options: Any, path: str, trusted: bool, problems: list[str]) -> _Tree:
    if not isinstance(options, Mapping):
        problems.append(f'setting "{path or "codeclippy"}" must be an object, not {options!r:.80}; it is ignored')
        return tree
    known = {camel(member.name): member for member in fields(tree)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in options.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in known:
            problems.append(f'setting "{where}" does not exist; it is ignored')
            continue
        member = known[key]
        current = getattr(tree, member.name)
        if is_dataclass(current):
            changes[member.name] = _merge(current, value, where, trusted, problems)
        elif member.metadata["restricted"] and not trusted:
            if value != current:
                problems.append(f'setting "{where}" may not be set by a workspace; it is ignored')
        elif (problem := _problem(value, current, member.metadata)) is not None:
            problems.append(f'setting "{where}" {problem}; {current!r} is used')
        else:
            changes[member.name] = tuple(value) if isinstance(current, tuple) else type(current)(value)
    return replace(tree, **changes) if changes else tree  # type: ignore[type-var]


def _problem(value: Any, current: Any, facts: Mapping[str, Any]) -> str | None:
    """What is wrong with a value, ``None`` where nothing is."""
    if isinstance(current, tuple):
        good = isinstance(value, (list, tuple)) and all(isinstance(item, str) and item.strip() for item in value)
        if not good:
            return f"must be a list of strings, not {value!r:.80}"
        unknown = [item for item in value if facts["choices"] and item not in facts["choices"]]
        return f"knows no {unknown[0]!r:.40}, only {', '.join(facts['choices'])}" if unknown else None
    kind: Any = (int, float) if isinstance(current, float) else type(current)
    if not isinstance(value, kind) or (isinstance(value, bool) and not isinstance(current, bool)):
        return f"must be {_KIND[type(current)]}, not {value!r:.80}"
    if facts["choices"] and value not in facts["choices"]:
        return f"must be one of {', '.join(facts['choices'])}, not {value!r:.80}"
    if facts["least"] is not None and not facts["least"] <= value <= facts["most"]:
        return f"must lie between {facts['least']} and {facts['most']}, not {value!r:.80}"
    return None


_KIND = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def camel(name: str) -> str:
    """A field's name as clients write it."""
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def reference() -> list[tuple[str, Any, str, bool]]:
    """Every setting as (path, default, meaning, restricted): what docs and editors' manifests are checked against."""
    rows = []
    for section in fields(Settings):
        tree = getattr(Settings(), section.name)
        for member in fields(tree):
            facts = member.metadata
            rows.append(
                (f"{section.name}.{camel(member.name)}", getattr(tree, member.name), facts["help"], facts["restricted"])
            )
    return rows
