"""The house's invariants: who may import what, what the server's start must not load, and who writes to stdout."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "codeclippy_ls"
SOURCES = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "samples"]
ROOMS = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in SOURCES}
# What each room may import of ours, beside itself.
MAY_IMPORT = {
    "text": set(),
    "settings": set(),
    "frames": set(),
    "engine": set(),
    "prompts": {"text"},
    "diffs": {"text"},
    "constrain": {"text"},
    "assist": {"prompts", "diffs", "constrain", "text", "engine", "settings"},
    "remote": {"assist", "engine", "prompts", "settings"},
    "host": {"assist", "remote", "engine", "frames", "settings", ""},
    "server": {"host", "assist", "engine", "prompts", "settings", "frames", "text", ""},
    "cli": ROOMS | {""},
    "oneshot": ROOMS | {""},
    "doctor": ROOMS | {""},
    "demo": {"diffs", "text", ""},
    "__init__": set(),
    "__main__": {"cli"},
}
# Libraries that only some rooms know.
KNOWN_BY = {
    "torch": {"engine", "doctor"},
    "transformers": {"engine"},
    "safetensors": {"engine"},
    "tokenizers": {"engine"},
    "huggingface_hub": {"engine"},
    "pygls": {"server", "host", "demo"},
    "lsprotocol": {"server", "demo"},
    "cattrs": {"server", "host"},
    "filelock": {"host"},
    "unidiff": {"diffs"},
    "httpx2": {"remote"},
}


def imports() -> list[tuple[str, str, Path]]:
    """Room, imported module and file, for every import in the package, also inside functions."""
    found = []
    for path in SOURCES:
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [(room, alias.name, path) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                module = str(node.module)
                names = [f"{module}.{alias.name}" for alias in node.names] if module == "codeclippy_ls" else [module]
                found += [(room, name, path) for name in names]
    return found


def test_imports_run_one_way() -> None:
    """No room knows one above it."""
    assert set(MAY_IMPORT) == ROOMS
    for room, module, path in imports():
        if module.startswith("codeclippy_ls"):
            other = ([*module.split("."), ""])[1]
            other = other if other in ROOMS else ""
            assert other == room or other in MAY_IMPORT[room], f"{path} imports {module}"


def test_only_their_rooms_know_the_libraries() -> None:
    """torch is the engine's, LSP the server's, unidiff the diff reader's."""
    for room, module, path in imports():
        library = module.split(".")[0]
        if library in KNOWN_BY:
            assert room in KNOWN_BY[library], f"{path} imports {module}"
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
        if path.stem in {"oneshot", "doctor", "demo"}:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                assert any(keyword.arg == "file" for keyword in node.keywords), f"{path}:{node.lineno} prints"


def test_every_public_thing_has_a_docstring() -> None:
    """Modules open with their contract, public names have a line at least."""
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), f"{path} has no docstring"
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                public = not node.name.startswith("_")
                assert ast.get_docstring(node) or not public, f"{path}:{node.lineno} {node.name} has no docstring"
