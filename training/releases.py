"""Make edits from successive releases of packages: small changes by people, with a message derived by a rule.

Reads the wheels of `packages-earlier.txt` and, for each, the later one of `packages.txt`; matches files by path and
functions by name. Appends an `EditSample` to `<work>/edits/{train,valid}.jsonl` for each change that a rule can
describe so exactly that a reader of text and message could write the result; drops all other changes. Run it after
`training.edits`; edits of an earlier run of this script are replaced.
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

from training.archives import download_wheels, read_wheel
from training.corpus import (
    HERE,
    WORD,
    collect_benchmark_ngrams,
    get_package_name,
    iter_archives,
    iter_ngrams,
    read_package_list,
)
from training.edit_kinds import Draft
from training.edits import EditSample, make_sample
from training.snippets import FunctionNode, Snippet, apply_diff, find_snippets, make_snippet, parse

KIND_PREFIX = "release: "
MAX_CHANGED_LINES, MAX_MESSAGE_CHARS, MAX_EDITS_PER_PACKAGE = 25, 150, 600
TOKEN = re.compile(r"(?:[rbf]{0,2})\"[^\"\n\\]*\"|(?:[rbf]{0,2})'[^'\n\\]*'|\w+|\s+|[^\w\s]")
Change = tuple[int, int, int, int]  # lines i1:i2 of the old text become lines j1:j2 of the new one


@dataclass(frozen=True, slots=True)
class ChangeDescription:
    """The name of the rule, possible messages, and the function that they mean, if it applies everywhere."""

    kind: str
    messages: list[str]
    meaning: Callable[[str], str] | None = None


def diff_lines(old: list[str], new: list[str]) -> list[Change]:
    """Return the changed ranges of lines."""
    codes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [(i1, i2, j1, j2) for tag, i1, i2, j1, j2 in codes if tag != "equal"]


def quote(text: str) -> str:
    """Quote code in a message."""
    return f"`{text.strip()}`"


# Rewrites with a name: if the rule turns the old text into the new one, its message is exact.
OPTIONAL = re.compile(r"\b(?:t\.|typing\.)?Optional\[([\w.]+(?:\[[\w., ]*\])?)\]")
UNION = re.compile(r"\b(?:t\.|typing\.)?Union\[([\w.]+), ([\w.]+)\]")
GENERIC = re.compile(r"\b(?:t\.|typing\.)?(List|Dict|Tuple|Set|Type|FrozenSet)\b(?=\[)")
REWRITES = (
    ("union type", OPTIONAL, r"\1 | None", ["Use X | None instead of Optional", "Optional[X] -> X | None"]),
    ("union type", UNION, r"\1 | \2", ["Use X | Y instead of Union", "use the new union syntax"]),
    ("builtin generic", GENERIC, lambda m: m[1].lower(), ["Use builtin generics", "use list and dict instead of List"]),
    ("modern super", re.compile(r"super\(\w+, self\)"), "super()", ["Use super() without arguments", "modern super()"]),
    ("object base", re.compile(r"\(object\):"), ":", ["Remove the object base class", "drop (object)"]),
    ("quotes", re.compile(r"'([^'\"\\]*)'"), r'"\1"', ["Use double quotes", "single -> double quotes"]),
    ("unicode prefix", re.compile(r"\bu(?=['\"])"), "", ["Remove the u prefix of strings", "drop u prefixes"]),
)


def match_rewrite(before: str, after: str) -> ChangeDescription | None:
    """Match a named rewrite that explains the whole change."""
    for name, pattern, replacement, forms in REWRITES:
        meaning = partial(pattern.sub, replacement)
        if meaning(before) == after:
            return ChangeDescription(name, forms, meaning)
    return None


def match_rename(old: list[str], new: list[str], before: str, after: str) -> ChangeDescription | None:
    """Match the renaming of one word everywhere."""
    one, other = TOKEN.findall("\n".join(old)), TOKEN.findall("\n".join(new))
    pairs = {(a, b) for a, b in zip(one, other, strict=False) if a != b}
    if len(one) != len(other) or len(pairs) != 1:
        return None
    (a, b) = pairs.pop()
    meaning = partial(re.compile(rf"\b{re.escape(a)}\b").sub, b)
    if not (a.isidentifier() and b.isidentifier()) or meaning(before) != after:
        return None
    forms = [f"Rename {a} to {b}", f"rename `{a}` to `{b}`", f"{a} -> {b}", f"use {b} instead of {a}"]
    return ChangeDescription("rename", forms, meaning)


def match_replacement(old: list[str], new: list[str], before: str) -> ChangeDescription | None:
    """Match a change of consecutive tokens in one line, widened until the old text is unique in the document."""
    if len(old) != 1 or len(new) != 1:
        return None
    one, other = TOKEN.findall(old[0]), TOKEN.findall(new[0])
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    rest = min(len(one), len(other)) - start
    end = next((i for i in range(rest) if one[-1 - i] != other[-1 - i]), rest)
    while True:
        a, b = "".join(one[start : len(one) - end]), "".join(other[start : len(other) - end])
        whole = a.strip() and b.strip() and a == a.strip() and b == b.strip()
        if whole and before.count(a) == 1 and is_balanced(a) and is_balanced(b):
            break
        if start == 0 and end == 0:
            return None
        start, end = (start - 1, end) if start and (end == 0 or not a.strip()) else (start, max(0, end - 1))
    if max(len(a), len(b)) > 64 or "".join(a.split()) == "".join(b.split()):
        return None
    forms = [f"Change {quote(a)} to {quote(b)}", f"replace {quote(a)} with {quote(b)}", f"{a} -> {b}"]
    kind = (
        "condition" if re.match(r"\s*(if|elif|while) ", old[0]) else "constant" if a[0] in "\"'0123456789" else "change"
    )
    return ChangeDescription(kind, [*forms, f"use {quote(b)} instead of {quote(a)}", f"Change {a} to {b}"])


def is_balanced(code: str) -> bool:
    """Return True, approximately, if brackets and quotes come in pairs."""
    return all(code.count(a) == code.count(b) for a, b in ("()", "[]", "{}")) and code.count('"') % 2 == 0


def match_removal(old: list[str], new: list[str], before: str) -> ChangeDescription | None:
    """Match the removal of a line, or of a statement with its block."""
    first = old[0].strip() if old else ""
    tree = parse("if True:\n" + "\n".join(old)) if old and old[0][:1] == " " else parse("\n".join(old))
    if new or not first or tree is None or before.count(first) != 1:
        return None
    if first.startswith(("import ", "from ")) and len(old) == 1:
        return ChangeDescription(
            "remove import",
            [
                f"Remove {quote(first)}",
                f"remove the import of {first.split()[-1]}",
                f"drop {first}",
            ],
        )
    if len(old) == 1:
        return ChangeDescription(
            "remove line", [f"Remove {quote(first)}", f"delete the line {quote(first)}", f"drop {quote(first)}"]
        )
    inner = tree.body[0].body if isinstance(tree.body[0], ast.If) and old[0][:1] == " " else tree.body
    if len(inner) == 1 and first.endswith(":"):
        return ChangeDescription(
            "remove block", [f"Remove the block {quote(first)}", f"delete {quote(first)} and its block"]
        )
    return None


def match_addition(old: list[str], new: list[str], above: str, before: str) -> ChangeDescription | None:
    """Match the addition of a line, or of a condition with one statement."""
    lines = [line.strip() for line in new]
    if old or not lines or not all(lines) or before.count(above.strip()) != 1 or len(above.strip()) < 3:
        return None
    behind = f"after {quote(above)}"
    if len(lines) == 1 and re.match(r'"""[^"]*"""$', lines[0]):
        return ChangeDescription("add docstring", [f"Add the docstring {lines[0]}", f"docstring: {lines[0][3:-3]}"])
    if len(lines) == 1 and lines[0].startswith("# "):
        return ChangeDescription(
            "add comment", [f'Add the comment "{lines[0][2:]}" {behind}', f"comment {behind}: {lines[0][2:]}"]
        )
    if len(lines) == 1 and lines[0].startswith(("import ", "from ")):
        return ChangeDescription("add import", [f"Add {quote(lines[0])} {behind}", f"{lines[0]}, {behind}"])
    if len(lines) == 1:
        return ChangeDescription("add line", [f"Add {quote(lines[0])} {behind}", f"insert {quote(lines[0])} {behind}"])
    if len(lines) == 2 and re.match(r"if .*:$", lines[0]) and lines[1][-1] not in ":([{,":
        return ChangeDescription(
            "add guard", [f"Add `{lines[0]} {lines[1]}` {behind}", f"{behind[6:]}: {lines[0]} {lines[1]}"]
        )
    return None


def match_signature_change(old: FunctionNode, new: FunctionNode) -> ChangeDescription | None:
    """Match the addition or removal of a parameter, or the addition of annotations, and nothing else."""

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
        return ChangeDescription(
            "add parameter", [f"Add the parameter {quote(text)}", f"add {text} to {name}", f"add argument {text}"]
        )
    if same and hint == earlier and len(gone) == 1 and not extra:
        return ChangeDescription("remove parameter", [f"Remove the parameter {gone[0]}", f"drop {gone[0]} from {name}"])
    if same and not extra and not gone and hint and not earlier:
        return ChangeDescription(
            "add return type", [f"Add the return type {hint}", f"annotate {name} with -> {hint}", f"returns {hint}"]
        )
    bare = [k for k in one if k in other and one[k] != other[k] and ":" not in one[k] and ":" in other[k]]
    if list(one) == list(other) and 1 <= len(bare) <= 4 and all(one[k] == other[k] for k in one if k not in bare):
        annotations = ", ".join(re.sub(r"=.*", "", other[k]) for k in bare)
        annotations += f" -> {hint}" if hint != earlier else ""
        return ChangeDescription(
            "annotate", [f"Annotate {annotations}", f"add type hints: {annotations}", f"Add the types {annotations}"]
        )
    return None


def describe_change(old: Snippet, after: str, change: list[Change]) -> ChangeDescription | None:
    """Describe the change of a snippet by the first rule that matches."""
    one, other = old.source.split("\n"), after.split("\n")
    lines_old = [line for i1, i2, _, _ in change for line in one[i1:i2]]
    lines_new = [line for _, _, j1, j2 in change for line in other[j1:j2]]
    found = match_rewrite(old.source, after) or match_rename(lines_old, lines_new, old.source, after)
    tree = parse(after)
    if found is not None or tree is None or not tree.body or len(change) > 1:
        return found if tree is not None else None
    node, later = old.node, tree.body[0]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, functions) and isinstance(later, functions) and len(lines_old) == len(lines_new):
        found = match_signature_change(node, later)
    above = one[change[0][0] - 1] if change[0][0] else ""
    return (
        found
        or match_replacement(lines_old, lines_new, old.source)
        or match_removal(lines_old, lines_new, old.source)
        or match_addition(lines_old, lines_new, above, old.source)
    )


def split_change(old: Snippet, new: str) -> Iterator[tuple[str, list[Change]]]:
    """Yield the whole change if a rule matches it, else each changed range on its own: text after it and ranges."""
    one, other = old.source.split("\n"), new.split("\n")
    runs = diff_lines(one, other)
    if sum(i2 - i1 + j2 - j1 for i1, i2, j1, j2 in runs) > MAX_CHANGED_LINES:
        return
    if describe_change(old, new, runs):
        yield new, runs
    elif len(runs) > 1:
        for i1, i2, j1, j2 in runs:
            yield "\n".join([*one[:i1], *other[j1:j2], *one[i2:]]), [(i1, i2, i1, i1 + j2 - j1)]


def collect_definitions(text: str) -> dict[str, Snippet]:
    """Collect the functions, short classes and imports of a file by qualified name."""
    found: dict[str, Snippet] = {}
    tree, lines = parse(text), text.split("\n")

    def walk(node: ast.AST, path: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                name = f"{path}.{child.name}"
                first = min([child.lineno, *(d.lineno for d in child.decorator_list)])
                last = child.end_lineno or first
                if last - first < 70 and (one := make_snippet(lines, first, last)) and name not in found:
                    found[name] = one
                if not isinstance(child, ast.ClassDef) or last - first >= 70:
                    walk(child, name)

    if tree is not None:
        walk(tree, "")
        head = list(find_snippets(text, max_lines=1))[-1:]
        if head and isinstance(head[0].node, (ast.Import, ast.ImportFrom)):
            found["<head>"] = head[0]
    return found


def make_file_edits(path: str, old: str, new: str, rng: random.Random) -> Iterator[EditSample]:
    """Make the edits between two versions of a file."""
    later = collect_definitions(new)
    for name, one in collect_definitions(old).items():
        if name not in later or later[name].source == one.source:
            continue
        for after, runs in split_change(one, later[name].source):
            change = describe_change(one, after, runs)
            if change is None:
                continue
            message = rng.choice(change.messages)
            edit = make_sample(one, KIND_PREFIX + change.kind, Draft(one.source, after, message), path, rng)
            if (
                edit is not None
                and len(message) <= MAX_MESSAGE_CHARS
                and "\n" not in message
                and is_exact(edit, change)
            ):
                yield edit


def is_exact(edit: EditSample, change: ChangeDescription) -> bool:
    """Return True if the message means exactly this edit: quoted code is unique, or the meaning gives the result."""
    if change.meaning is not None:
        return change.meaning(edit.before) == apply_diff(edit.before, edit.diff)
    return all(edit.before.count(text) <= 1 for text in re.findall(r"`([^`]+)`", " ".join(change.messages)))


def make_release_edits(earlier: Path, later: Path, rng: random.Random) -> list[EditSample]:
    """Make the edits between two wheels of a package."""
    old, new = read_wheel(earlier), read_wheel(later)
    if old is None or new is None:
        return []
    texts = {file.path: file.text for file in new.files if file.path.endswith(".py")}
    pairs = [(f.path, f.text, texts[f.path]) for f in old.files if texts.get(f.path, f.text) != f.text]
    edits = [edit for path, one, other in pairs for edit in make_file_edits(path, one, other, rng)]
    rng.shuffle(edits)
    unique = {(edit.message, edit.diff): edit for edit in edits}
    return list(unique.values())[:MAX_EDITS_PER_PACKAGE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, default=HERE / "packages.txt")
    parser.add_argument("--earlier", type=Path, default=HERE / "packages-earlier.txt")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument(
        "--benchmarks",
        type=Path,
        nargs="*",
        default=[],
        help="HumanEval-like JSON lines; edits that overlap with them are skipped",
    )
    options = parser.parse_args()
    earlier, listed = read_package_list(options.earlier), read_package_list(options.packages)
    download_wheels(earlier, options.work / "wheels")
    benchmark_ngrams = collect_benchmark_ngrams(options.benchmarks)
    later = {get_package_name(r): (wheel, listed[r]) for r, wheel in iter_archives(listed, options.work) if "==" in r}
    edits_of_split: dict[str, list[EditSample]] = {"train": [], "valid": []}
    for requirement, wheel in iter_archives(earlier, options.work):
        target, held_out = later[get_package_name(requirement)]
        edits = make_release_edits(wheel, target, random.Random(requirement))
        edits = [e for e in edits if benchmark_ngrams.isdisjoint(iter_ngrams(WORD.findall(e.before)))]
        edits_of_split["valid" if held_out else "train"] += edits
        print(f"{len(edits):6} {requirement}", flush=True)
    for split, edits in edits_of_split.items():
        merge_edits(options.work / "edits" / f"{split}.jsonl", edits)
        print("\n".join(f"{n:8} {k}" for k, n in Counter(e.kind for e in edits).most_common()), flush=True)


def merge_edits(path: Path, edits: list[EditSample]) -> None:
    """Append the edits to the synthetic ones, replacing those of an earlier run."""
    kept = [line for line in path.read_text().splitlines(True) if not json.loads(line)["kind"].startswith(KIND_PREFIX)]
    part = path.with_suffix(".jsonl.part")
    part.write_text("".join([*kept, *(json.dumps(asdict(edit)) + "\n" for edit in edits)]))
    part.replace(path)


if __name__ == "__main__":
    main()
