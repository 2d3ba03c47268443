"""Edits from successive releases: small changes that people made, with a message that a rule derives from the change.

Reads the wheels listed in `packages-earlier.txt` and, for each, the later one listed in `packages.txt`; matches files
by path and functions by name; appends an `EditSample` to `<work>/edits/{train,valid}.jsonl` for each change that a rule
can state so exactly that a reader of text and message could write the result. All other changes are dropped. Run after
`training.edits`; what an earlier run of this script added is replaced.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path

from training.archives import download_wheels, wheel_package
from training.corpus import HERE, WORD, benchmark_windows, fetched, package_name, pinned, word_windows
from training.edit_kinds import Draft
from training.edits import EditSample, sample
from training.snippets import FunctionNode, Snippet, applied, parsed, snippet, snippets

PREFIX = "release: "
MOST_CHANGED, LONGEST_MESSAGE, MOST_PER_PACKAGE = 25, 150, 600
TOKEN = re.compile(r"(?:[rbf]{0,2})\"[^\"\n\\]*\"|(?:[rbf]{0,2})'[^'\n\\]*'|\w+|\s+|[^\w\s]")
Change = tuple[int, int, int, int]  # lines i1:i2 of the old text become lines j1:j2 of the new one


@dataclass(frozen=True, slots=True)
class Told:
    """The rule's name, the phrasings of its message, and what they mean for a whole text, where it is all of it."""

    kind: str
    forms: list[str]
    meaning: Callable[[str], str] | None = None


def changes(old: list[str], new: list[str]) -> list[Change]:
    """The changed runs of lines."""
    codes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [(i1, i2, j1, j2) for tag, i1, i2, j1, j2 in codes if tag != "equal"]


def quoted(text: str) -> str:
    """Code in a message."""
    return f"`{text.strip()}`"


# Rewritings with a name: where the rule makes the new line of the old one, its message says all.
OPTIONAL = re.compile(r"\b(?:t\.|typing\.)?Optional\[([\w.]+(?:\[[\w., ]*\])?)\]")
UNION = re.compile(r"\b(?:t\.|typing\.)?Union\[([\w.]+), ([\w.]+)\]")
GENERIC = re.compile(r"\b(?:t\.|typing\.)?(List|Dict|Tuple|Set|Type|FrozenSet)\b(?=\[)")
REWRITINGS = (
    ("union type", OPTIONAL, r"\1 | None", ["Use X | None instead of Optional", "Optional[X] -> X | None"]),
    ("union type", UNION, r"\1 | \2", ["Use X | Y instead of Union", "use the new union syntax"]),
    ("builtin generic", GENERIC, lambda m: m[1].lower(), ["Use builtin generics", "use list and dict instead of List"]),
    ("modern super", re.compile(r"super\(\w+, self\)"), "super()", ["Use super() without arguments", "modern super()"]),
    ("object base", re.compile(r"\(object\):"), ":", ["Remove the object base class", "drop (object)"]),
    ("quotes", re.compile(r"'([^'\"\\]*)'"), r'"\1"', ["Use double quotes", "single -> double quotes"]),
    ("unicode prefix", re.compile(r"\bu(?=['\"])"), "", ["Remove the u prefix of strings", "drop u prefixes"]),
)


def rewritten(before: str, after: str) -> Told | None:
    """A named rewriting that explains the whole change."""
    for name, pattern, replacement, forms in REWRITINGS:
        meaning = partial(pattern.sub, replacement)
        if meaning(before) == after:
            return Told(name, forms, meaning)
    return None


def renamed(old: list[str], new: list[str], before: str, after: str) -> Told | None:
    """One word, replaced wherever it stood."""
    one, other = TOKEN.findall("\n".join(old)), TOKEN.findall("\n".join(new))
    pairs = {(a, b) for a, b in zip(one, other, strict=False) if a != b}
    if len(one) != len(other) or len(pairs) != 1:
        return None
    (a, b) = pairs.pop()
    meaning = partial(re.compile(rf"\b{re.escape(a)}\b").sub, b)
    if not (a.isidentifier() and b.isidentifier()) or meaning(before) != after:
        return None
    forms = [f"Rename {a} to {b}", f"rename `{a}` to `{b}`", f"{a} -> {b}", f"use {b} instead of {a}"]
    return Told("rename", forms, meaning)


def replaced(old: list[str], new: list[str], before: str) -> Told | None:
    """One run of tokens in one line, widened until the old text stands once in the document."""
    if len(old) != 1 or len(new) != 1:
        return None
    one, other = TOKEN.findall(old[0]), TOKEN.findall(new[0])
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    rest = min(len(one), len(other)) - start
    end = next((i for i in range(rest) if one[-1 - i] != other[-1 - i]), rest)
    while True:
        a, b = "".join(one[start : len(one) - end]), "".join(other[start : len(other) - end])
        whole = a.strip() and b.strip() and a == a.strip() and b == b.strip()
        if whole and before.count(a) == 1 and balanced(a) and balanced(b):
            break
        if start == 0 and end == 0:
            return None
        start, end = (start - 1, end) if start and (end == 0 or not a.strip()) else (start, max(0, end - 1))
    if max(len(a), len(b)) > 64 or "".join(a.split()) == "".join(b.split()):
        return None
    forms = [f"Change {quoted(a)} to {quoted(b)}", f"replace {quoted(a)} with {quoted(b)}", f"{a} -> {b}"]
    kind = (
        "condition" if re.match(r"\s*(if|elif|while) ", old[0]) else "constant" if a[0] in "\"'0123456789" else "change"
    )
    return Told(kind, [*forms, f"use {quoted(b)} instead of {quoted(a)}", f"Change {a} to {b}"])


def balanced(code: str) -> bool:
    """Whether brackets and quotes come in pairs, roughly."""
    return all(code.count(a) == code.count(b) for a, b in ("()", "[]", "{}")) and code.count('"') % 2 == 0


def removed(old: list[str], new: list[str], before: str) -> Told | None:
    """A line, or a statement with its block, that is gone."""
    first = old[0].strip() if old else ""
    tree = parsed("if True:\n" + "\n".join(old)) if old and old[0][:1] == " " else parsed("\n".join(old))
    if new or not first or tree is None or before.count(first) != 1:
        return None
    if first.startswith(("import ", "from ")) and len(old) == 1:
        return Told(
            "remove import",
            [
                f"Remove {quoted(first)}",
                f"remove the import of {first.split()[-1]}",
                f"drop {first}",
            ],
        )
    if len(old) == 1:
        return Told(
            "remove line", [f"Remove {quoted(first)}", f"delete the line {quoted(first)}", f"drop {quoted(first)}"]
        )
    inner = tree.body[0].body if isinstance(tree.body[0], ast.If) and old[0][:1] == " " else tree.body
    if len(inner) == 1 and first.endswith(":"):
        return Told("remove block", [f"Remove the block {quoted(first)}", f"delete {quoted(first)} and its block"])
    return None


def added(old: list[str], new: list[str], above: str, before: str) -> Told | None:
    """A line behind another, or a condition with one statement."""
    lines = [line.strip() for line in new]
    if old or not lines or not all(lines) or before.count(above.strip()) != 1 or len(above.strip()) < 3:
        return None
    behind = f"after {quoted(above)}"
    if len(lines) == 1 and re.match(r'"""[^"]*"""$', lines[0]):
        return Told("add docstring", [f"Add the docstring {lines[0]}", f"docstring: {lines[0][3:-3]}"])
    if len(lines) == 1 and lines[0].startswith("# "):
        return Told("add comment", [f'Add the comment "{lines[0][2:]}" {behind}', f"comment {behind}: {lines[0][2:]}"])
    if len(lines) == 1 and lines[0].startswith(("import ", "from ")):
        return Told("add import", [f"Add {quoted(lines[0])} {behind}", f"{lines[0]}, {behind}"])
    if len(lines) == 1:
        return Told("add line", [f"Add {quoted(lines[0])} {behind}", f"insert {quoted(lines[0])} {behind}"])
    if len(lines) == 2 and re.match(r"if .*:$", lines[0]) and lines[1][-1] not in ":([{,":
        return Told("add guard", [f"Add `{lines[0]} {lines[1]}` {behind}", f"{behind[6:]}: {lines[0]} {lines[1]}"])
    return None


def signature(old: FunctionNode, new: FunctionNode) -> Told | None:
    """A parameter put in or taken away, or annotations put in, and nothing else."""

    def listed(node: FunctionNode) -> dict[str, str]:
        defaults = dict(zip([a.arg for a in node.args.args][::-1], node.args.defaults[::-1], strict=False))
        defaults |= {a.arg: d for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d}
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        stars = {f"{star}{a.arg}": a for star, a in (("*", node.args.vararg), ("**", node.args.kwarg)) if a is not None}
        texts = {a.arg: ast.unparse(a) for a in every} | {k: k + ast.unparse(a)[len(a.arg) :] for k, a in stars.items()}
        return {k: text + (f"={ast.unparse(defaults[k])}" if k in defaults else "") for k, text in texts.items()}

    if list(map(ast.dump, old.body)) != list(map(ast.dump, new.body)):
        return None
    one, other, name = listed(old), listed(new), new.name
    hint, earlier = (ast.unparse(n.returns) if n.returns else "" for n in (new, old))
    extra, gone = [k for k in other if k not in one], [k for k in one if k not in other]
    same = all(one[k] == other[k] for k in one if k in other)
    if same and hint == earlier and len(extra) == 1 and not gone and list(other)[-1] == extra[0]:
        text = other[extra[0]]
        return Told(
            "add parameter", [f"Add the parameter {quoted(text)}", f"add {text} to {name}", f"add argument {text}"]
        )
    if same and hint == earlier and len(gone) == 1 and not extra:
        return Told("remove parameter", [f"Remove the parameter {gone[0]}", f"drop {gone[0]} from {name}"])
    if same and not extra and not gone and hint and not earlier:
        return Told(
            "add return type", [f"Add the return type {hint}", f"annotate {name} with -> {hint}", f"returns {hint}"]
        )
    bare = [k for k in one if k in other and one[k] != other[k] and ":" not in one[k] and ":" in other[k]]
    if list(one) == list(other) and 1 <= len(bare) <= 4 and all(one[k] == other[k] for k in one if k not in bare):
        told = ", ".join(re.sub(r"=.*", "", other[k]) for k in bare)
        told += f" -> {hint}" if hint != earlier else ""
        return Told("annotate", [f"Annotate {told}", f"add type hints: {told}", f"Add the types {told}"])
    return None


def told(old: Snippet, after: str, change: list[Change]) -> Told | None:
    """What a rule says of the change of a whole snippet, given as runs of lines."""
    one, other = old.source.split("\n"), after.split("\n")
    lines_old = [line for i1, i2, _, _ in change for line in one[i1:i2]]
    lines_new = [line for _, _, j1, j2 in change for line in other[j1:j2]]
    found = rewritten(old.source, after) or renamed(lines_old, lines_new, old.source, after)
    tree = parsed(after)
    if found is not None or tree is None or not tree.body or len(change) > 1:
        return found if tree is not None else None
    node, later = old.node, tree.body[0]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, functions) and isinstance(later, functions) and len(lines_old) == len(lines_new):
        found = signature(node, later)
    above = one[change[0][0] - 1] if change[0][0] else ""
    return (
        found
        or replaced(lines_old, lines_new, old.source)
        or removed(lines_old, lines_new, old.source)
        or added(lines_old, lines_new, above, old.source)
    )


def steps(old: Snippet, new: str) -> Iterator[tuple[str, list[Change]]]:
    """The whole change, or else each run of changed lines by itself: the text after it, and the runs."""
    one, other = old.source.split("\n"), new.split("\n")
    runs = changes(one, other)
    if sum(i2 - i1 + j2 - j1 for i1, i2, j1, j2 in runs) > MOST_CHANGED:
        return
    if told(old, new, runs):
        yield new, runs
    elif len(runs) > 1:
        for i1, i2, j1, j2 in runs:
            yield "\n".join([*one[:i1], *other[j1:j2], *one[i2:]]), [(i1, i2, i1, i1 + j2 - j1)]


def definitions(text: str) -> dict[str, Snippet]:
    """A file's functions by qualified name, its imports, and short classes."""
    found: dict[str, Snippet] = {}
    tree, lines = parsed(text), text.split("\n")

    def walk(node: ast.AST, path: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                name = f"{path}.{child.name}"
                first = min([child.lineno, *(d.lineno for d in child.decorator_list)])
                last = child.end_lineno or first
                if last - first < 70 and (one := snippet(lines, first, last)) and name not in found:
                    found[name] = one
                if not isinstance(child, ast.ClassDef) or last - first >= 70:
                    walk(child, name)

    if tree is not None:
        walk(tree, "")
        head = list(snippets(text, longest=1))[-1:]
        if head and isinstance(head[0].node, (ast.Import, ast.ImportFrom)):
            found["<head>"] = head[0]
    return found


def file_edits(path: str, old: str, new: str, rng: random.Random) -> Iterator[EditSample]:
    """The edits between two versions of a file."""
    later = definitions(new)
    for name, one in definitions(old).items():
        if name not in later or later[name].source == one.source:
            continue
        for after, runs in steps(one, later[name].source):
            said = told(one, after, runs)
            if said is None:
                continue
            message = rng.choice(said.forms)
            made = sample(one, PREFIX + said.kind, Draft(one.source, after, message), path, rng)
            if made is not None and len(message) <= LONGEST_MESSAGE and "\n" not in message and exact(made, said):
                yield made


def exact(made: EditSample, said: Told) -> bool:
    """Whether code that the phrasings quote stands at most once in the document, or they mean no more than is done."""
    if said.meaning is not None:
        return said.meaning(made.before) == applied(made.before, made.diff)
    return all(made.before.count(text) <= 1 for text in re.findall(r"`([^`]+)`", " ".join(said.forms)))


def release_edits(earlier: Path, later: Path, rng: random.Random) -> list[EditSample]:
    """The edits between two wheels of a package."""
    old, new = wheel_package(earlier), wheel_package(later)
    if old is None or new is None:
        return []
    texts = {file.path: file.text for file in new.files if file.path.endswith(".py")}
    pairs = [(f.path, f.text, texts[f.path]) for f in old.files if texts.get(f.path, f.text) != f.text]
    found = [edit for path, one, other in pairs for edit in file_edits(path, one, other, rng)]
    rng.shuffle(found)
    unique = {(edit.message, edit.diff): edit for edit in found}
    return list(unique.values())[:MOST_PER_PACKAGE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, default=HERE / "packages.txt")
    parser.add_argument("--earlier", type=Path, default=HERE / "packages-earlier.txt")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--benchmarks", type=Path, nargs="*", default=[], help="HumanEval-like JSON lines to keep out")
    options = parser.parse_args()
    earlier, listed = pinned(options.earlier), pinned(options.packages)
    download_wheels(earlier, options.work / "wheels")
    windows = benchmark_windows(options.benchmarks)
    later = {package_name(r): (wheel, listed[r]) for r, wheel in fetched(listed, options.work) if "==" in r}
    made: dict[str, list[EditSample]] = {"train": [], "valid": []}
    for requirement, wheel in fetched(earlier, options.work):
        target, held_out = later[package_name(requirement)]
        found = release_edits(wheel, target, random.Random(requirement))
        found = [e for e in found if windows.isdisjoint(word_windows(WORD.findall(e.before)))]
        made["valid" if held_out else "train"] += found
        print(f"{len(found):6} {requirement}", flush=True)
    for part, edits in made.items():
        merge(options.work / "edits" / f"{part}.jsonl", edits)
        print("\n".join(f"{n:8} {k}" for k, n in Counter(e.kind for e in edits).most_common()), flush=True)


def merge(path: Path, edits: list[EditSample]) -> None:
    """Put the edits behind the synthetic ones, in place of those of an earlier run."""
    kept = [line for line in path.read_text().splitlines(True) if not json.loads(line)["kind"].startswith(PREFIX)]
    part = path.with_suffix(".jsonl.part")
    part.write_text("".join([*kept, *(json.dumps(asdict(edit)) + "\n" for edit in edits)]))
    part.replace(path)


if __name__ == "__main__":
    main()
