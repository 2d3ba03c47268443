"""The package's invariants: who may import what, what the server's start must not load, and who writes to stdout."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "codeclippy_ls"
SOURCES = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "samples"]
# Folders of the engine that are rooms of their own.
_ENGINE_ROOMS = {"generation", "decoder", "loading"}
# What each room may import of ours, beside itself.
MAY_IMPORT: dict[str, set[str]] = {
    "line_diff": set(),
    "text": {"line_diff"},
    "uris": set(),
    "notebooks": {"text"},
    "families": set(),
    "settings": set(),
    "framing": set(),
    "listening": set(),
    "secret_text": set(),
    "secret_files": {"uris"},
    "inference": set(),
    "catalog": set(),
    "user_config": {"settings"},
    "model_choices": {"catalog", "families", "settings"},
    "model_specs": {"inference", "settings"},
    "syntax": {"text"},
    "next_edit": {"syntax", "text"},
    "index": {"secret_files", "secret_text", "syntax"},
    "postprocess": {"families", "syntax", "text"},
    "prompts": {"families", "syntax", "text"},
    "diffs": {"line_diff", "text"},
    "constrain": {"text"},
    "tasks": {
        *("families", "prompts", "postprocess", "diffs", "constrain", "syntax", "inference", "secret_files", "text"),
        "uris",
        "secret_text",
    },
    "assist": {
        *("tasks", "prompts", "postprocess", "diffs", "syntax", "inference", "model_specs", "settings", "text", "uris"),
        *("secret_files", "secret_text", "index"),
    },
    "engine/generation": {"inference"},
    "engine/decoder": {"engine/generation"},
    "engine/loading": {"catalog", "engine/decoder", "engine/generation", "inference"},
    "engine": {"engine/generation", "engine/loading", "inference"},
    "host": {"tasks", "inference", "settings", "framing", "listening", ""},
    "remote": {"tasks", "prompts", "inference", "settings"},
    "fallback_engine": {"inference"},
    "engines": {"fallback_engine", "engine", "host", "remote", "tasks", "inference", "model_specs", "settings"},
    "server": {
        *("engines", "assist", "tasks", "prompts", "syntax", "inference", "settings", "framing", "listening"),
        *("secret_files", "text", "uris", "notebooks", "user_config", "index", "catalog", "model_choices", "next_edit"),
        "",
    },
}
_COMMAND_LINE = {
    "cli",
    "option_parser",
    "commands",
    "command_settings",
    "model_commands",
    "progress_line",
    "doctor",
    "demo",
    "__main__",
}
ROOMS = {*MAY_IMPORT, *_COMMAND_LINE, "__init__"}
# Libraries that only some rooms know.
KNOWN_BY = {
    "torch": {"engine", "doctor"},
    "transformers": {"engine"},
    "safetensors": {"engine"},
    "platformdirs": {"catalog", "index", "model_choices", "user_config"},
    "pathspec": {"index"},
    "tomli": {"user_config"},
    "gguf": {"engine"},
    "numpy": {"engine"},
    "tokenizers": {"engine"},
    "huggingface_hub": {"engine", "catalog"},
    "pygls": {"server", "host", "demo"},
    "lsprotocol": {"server", "demo"},
    "cattrs": {"server", "host"},
    "filelock": {"host", "index", "catalog"},
    "unidiff": {"diffs"},
    "tree_sitter": {"syntax", "next_edit"},
    "httpx2": {"remote"},
}


@cache
def tree_of(path: Path) -> ast.Module:
    """Parse a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(module: str) -> str:
    """Return the room of a module, given as ``room/room.py`` parts or a dotted name below the package."""
    first, *rest = module.split(".")
    if first == "engine" and rest and rest[0] in _ENGINE_ROOMS:
        return f"engine/{rest[0]}"
    return first if first in ROOMS else ""


@cache
def imports() -> list[tuple[str, str, Path]]:
    """Room, imported module and file, for every import in the package, also inside functions."""
    found = []
    for path in SOURCES:
        room = room_of(".".join(path.relative_to(PACKAGE).with_suffix("").parts))
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                found += [(room, alias.name, path) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                module = str(node.module)
                names = [f"{module}.{alias.name}" for alias in node.names] if module == "codeclippy_ls" else [module]
                found += [(room, name, path) for name in names]
    return found


def test_imports_run_one_way() -> None:
    """No room imports one that is not listed for it; only the command line may import all."""
    assert {room for room, _, _ in imports()} <= ROOMS
    for room, module, path in imports():
        if module.startswith("codeclippy_ls") and room not in _COMMAND_LINE:
            other = room_of(module.removeprefix("codeclippy_ls").removeprefix("."))
            assert other == room or other in MAY_IMPORT.get(room, ()), f"{path} imports {module}"


def test_rooms_have_no_circle() -> None:
    """What a room may import never leads back to it."""
    left = {room: set(others) for room, others in MAY_IMPORT.items()}
    while left:
        free = {room for room, others in left.items() if not others & left.keys()}
        assert free, f"a circle among {sorted(left)}"
        left = {room: others for room, others in left.items() if room not in free}


def test_packages_re_export_nothing() -> None:
    """Each name has one door: the module that defines it."""
    for path in SOURCES:
        if path.name == "__init__.py":
            imported = [node for node in tree_of(path).body if isinstance(node, ast.ImportFrom)]
            assert not [node for node in imported if str(node.module).startswith("codeclippy_ls")], f"{path} re-exports"


def test_only_their_rooms_know_the_libraries() -> None:
    """torch is the engine's, LSP the server's, unidiff the diff reader's."""
    for room, module, path in imports():
        library = module.split(".")[0]
        if library in KNOWN_BY:
            assert room.split("/")[0] in KNOWN_BY[library], f"{path} imports {module}"
        else:
            assert library in sys.stdlib_module_names or library == "codeclippy_ls", f"{path} imports {module}"


def test_the_server_starts_without_torch() -> None:
    """The editor has its ``initialize`` answer before anything heavy is imported."""
    code = (
        "import codeclippy_ls.server.server, sys\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'httpx2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_prints_but_the_command_line() -> None:
    """Stdout belongs to the protocol."""
    for path in SOURCES:
        if path.stem in {"commands", "model_commands", "doctor", "demo"}:
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                assert any(keyword.arg == "file" for keyword in node.keywords), f"{path}:{node.lineno} prints"


def test_every_public_thing_has_a_docstring() -> None:
    """Modules open with their contract, public names have a line at least."""
    for path in SOURCES:
        tree = tree_of(path)
        assert ast.get_docstring(tree), f"{path} has no docstring"
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                public = not node.name.startswith("_")
                assert ast.get_docstring(node) or not public, f"{path}:{node.lineno} {node.name} has no docstring"
