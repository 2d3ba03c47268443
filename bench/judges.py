"""Independent judges of code: each language's own parser says whether a text is valid.

Python's, JSON's, TOML's and YAML's parsers, Node.js for JavaScript, TypeScript's compiler, ``bash -n``, ``rustfmt``,
Neovim for Lua, Emacs for the parentheses of Emacs Lisp. A judge whose program is absent does not exist. Shares nothing
with the package.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

EDITORS = Path(os.environ.get("EDITORS_ROOT", Path.home() / ".cache" / "codeclippy-editors"))
TYPESCRIPT = EDITORS / "vscode-extension" / "node_modules" / "typescript"
_TIMEOUT = 30
Judge = Callable[[str], bool]

_JAVASCRIPT = """
const vm = require("vm"), input = require("readline").createInterface({input: process.stdin});
input.on("line", line => {
  const text = JSON.parse(line);
  let valid = false;
  try { new vm.Script(text); valid = true } catch (error) {
    try { new vm.SourceTextModule(text); valid = true } catch (error) {}
  }
  console.log(valid);
});
"""
_TYPESCRIPT = """
const ts = require(process.argv[1]), input = require("readline").createInterface({input: process.stdin});
input.on("line", line => {
  const options = {reportDiagnostics: true, fileName: process.argv[2], compilerOptions: {jsx: 1, target: 99}};
  console.log(ts.transpileModule(JSON.parse(line), options).diagnostics.length === 0);
});
"""
_LUA = "local text = io.read('*a'); os.exit(loadstring(text) and 0 or 1)"
_LISP = (
    '(with-temp-buffer (emacs-lisp-mode) (let (line) (while (ignore-errors (setq line (read-string ""))) '
    '(insert line "\\n"))) (condition-case nil (check-parens) (error (kill-emacs 1))))'
)


class _Process:
    """A judge in a process of its own that reads JSON lines and answers ``true`` or ``false``."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __call__(self, text: str) -> bool:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(text) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline().strip()
        if answer not in ("true", "false"):
            raise RuntimeError(f"{process.args!r} ended")
        return answer == "true"


def _parses(parse: Callable[[str], object]) -> Judge:
    def judge(text: str) -> bool:
        try:
            parse(text)
        except (ValueError, SyntaxError, RecursionError):
            return False
        return True

    return judge


def _runs(*command: str) -> Judge:
    """Judge by a program's exit status; it reads the text."""

    def judge(text: str) -> bool:
        result = subprocess.run(command, input=text.encode(), capture_output=True, timeout=_TIMEOUT)
        return result.returncode == 0

    return judge


def _parse_toml(text: str) -> object:
    import tomllib  # from Python 3.11 on

    return tomllib.loads(text)


def _parse_yaml(text: str) -> object:
    yaml = import_module("yaml")  # transformers brings it
    try:
        return list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError from error


def make_judges() -> dict[str, Judge]:
    """Make the judges that this machine has, by language id."""
    judges = {
        "python": _parses(ast.parse),
        "json": _parses(json.loads),
        "toml": _parses(_parse_toml),
        "yaml": _parses(_parse_yaml),
    }
    if node := shutil.which("node"):
        judges["javascript"] = _Process(node, "--experimental-vm-modules", "-e", _JAVASCRIPT)
        if TYPESCRIPT.is_dir():
            for language, name in (("typescript", "a.ts"), ("typescriptreact", "a.tsx")):
                judges[language] = _Process(node, "-e", _TYPESCRIPT, str(TYPESCRIPT), name)
    if bash := shutil.which("bash"):
        judges["shellscript"] = _runs(bash, "-n")
    if rustfmt := shutil.which("rustfmt"):
        judges["rust"] = _runs(rustfmt, "--emit", "stdout", "--quiet", "--edition", "2024")
    if nvim := shutil.which("nvim") or _find(EDITORS / "nvim-0.12" / "nvim"):
        judges["lua"] = _runs(nvim, "--clean", "--headless", "-c", f"lua {_LUA}")
    if emacs := shutil.which("emacs"):
        judges["emacs-lisp"] = _runs(emacs, "-Q", "--batch", "--eval", _LISP)
    return judges


def _find(path: Path) -> str:
    return str(path) if path.is_file() else ""
