"""No regular expression takes more than linear time, whatever text it is given."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "codeclippy_ls"
# Repeated, each is what some pattern may try again from every position.
PIECES = (
    *("a", " ", "\t", "\n", ";", "-", "=", "#", "/", "*", "(", "{", '"', "'", "`", "\\", "<", "0", "é", "\x00"),
    *(
        "a ",
        " a",
        "\n ",
        " \n",
        "\n;; ",
        "\n# a",
        "\n// a",
        "a,",
        "a.b",
        "ab\n",
        '"""',
        "<|",
        "<|a",
        "export ",
        "@@ -1",
    ),
    *("(a)", "a: ", "--- ", "+++ ", "\n\n", "/*", "*/", "<!--", "%%", "async def ", "import a\n", "};\n", "1 ", "aA1_"),
)
LIMIT = 0.05  # seconds for 8,000 characters; only growth that is not linear can reach it and fail


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern as it is written, and the methods that it is used with."""

    place: str
    text: str
    flags: int
    uses: frozenset[str]

    @property
    def room(self) -> str:
        """The room that it is written in."""
        return self.place.split("/")[0].split(":")[0]


def patterns() -> Iterator[Pattern]:
    """Yield every pattern that is written in the package."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py")) if _is_ours(path)}
    for path, source in sources.items():
        names = {}
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Assign):
                targets = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                names.update({id(value): ast.unparse(name) for name, value in zip(targets, values, strict=False)})
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re.") and node.args:
                text, method = _literal(node.args[0]), ast.unparse(node.func).removeprefix("re.")
                if text is None or method == "escape":
                    continue
                used = {method} if method != "compile" else _methods(names.get(id(node), ""), source)
                yield Pattern(f"{path.relative_to(PACKAGE)}:{node.lineno}", text, _flags(node), frozenset(used))


def _is_ours(path: Path) -> bool:
    return path.parent.name != "samples"


def _methods(name: str, source: str) -> set[str]:
    """Return the methods that a compiled pattern's name is used with; all of them if none is seen."""
    found = set(re.findall(rf"\b{re.escape(name)}\.(\w+)\(", source)) if name else set()
    return found & {"match", "fullmatch", "search", "finditer", "findall", "split", "sub"} or {
        "match",
        "search",
        "finditer",
    }


def _literal(node: ast.expr) -> str | None:
    """Return a pattern that is written as it is, or with parts that are filled in; these are taken for a letter."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "a" for part in node.values)
    if isinstance(node, ast.BinOp):
        left, right = _literal(node.left), _literal(node.right)
        return None if left is None or right is None else left + right
    return "a" if isinstance(node, ast.Call) else None


def _flags(node: ast.Call) -> int:
    written = " ".join(ast.unparse(one) for one in (*node.args[1:], *(keyword.value for keyword in node.keywords)))
    return sum(getattr(re, name) for name in dict.fromkeys(re.findall(r"\bre\.([A-Z]+)\b", written)))


def seconds(pattern: re.Pattern[str], uses: frozenset[str], text: str) -> float:
    """Return the CPU seconds of using a pattern on a text in all its ways, the best of two runs."""
    runs = []
    for _ in range(2):
        started = time.process_time()
        for use in uses:
            found = pattern.sub("", text) if use == "sub" else getattr(pattern, use)(text)
            if use == "finditer":
                list(found)
        runs.append(time.process_time() - started)
    return min(runs)


FOUND = list(patterns())


def test_patterns_are_found() -> None:
    """Each of them compiles."""
    assert len(FOUND) > 40
    for one in FOUND:
        assert re.compile(one.text, one.flags), one.place


@pytest.mark.parametrize("room", sorted({one.room for one in FOUND}))
def test_every_pattern_is_linear(room: str) -> None:
    """In a process of its own: one that is exponential never comes back."""
    command = [sys.executable, "-m", "tests.test_patterns", room]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def main(room: str) -> int:
    """Try the patterns of a room; returns 1 if one of them grows faster than its text."""
    slow = 0
    for one in FOUND:
        if one.room != room:
            continue
        pattern = re.compile(one.text, one.flags)
        for piece in PIECES:
            for end in ("", "!", "\n"):
                print(f"{one.place} {one.text!r} on {piece!r} and {end!r}", flush=True)  # the last line may hang
                long = seconds(pattern, one.uses, (piece * 4000)[:4000] + end)
                if long > LIMIT and long > 3 * seconds(pattern, one.uses, (piece * 2000)[:2000] + end):
                    print(f"  takes {long:.2f} s")
                    slow = 1
    return slow


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
