"""Ask an index what a person at a place of a file may need from other files, and why, the most needed first.

What is named around the cursor and defined elsewhere comes first: what an import brings, with the members of a class
that something near is an instance of; then what the parents of the class around the cursor define; then definitions
found by their name alone; then the lines that share most words with those around the cursor.
"""

from __future__ import annotations

import posixpath
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from codeclippy_ls.index.files import is_inside, read_text
from codeclippy_ls.index.reading import WINDOW_LINES, blank_secret_lines, extract_words
from codeclippy_ls.index.resolving import Located, Module, Resolver
from codeclippy_ls.syntax.declarations import Declaration, list_declarations
from codeclippy_ls.syntax.import_names import Import, list_imports
from codeclippy_ls.syntax.tree import SyntaxTree

_LINES_BEFORE, _LINES_AFTER = 40, 20  # that count as near
_NAME = re.compile(r"[^\W\d]\w*")
_SUBWORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ATTRIBUTE = re.compile(
    r"(?<!\w)([^\W\d]\w{0,60}(?:\.[^\W\d]\w{0,60}){0,4})\s{0,8}(?:\.|::|->)\s{0,8}([^\W\d]\w{0,60})?"
)
# What tells the class of a name: an annotation, or the call of a constructor.
_TYPED = re.compile(r"(?<!\w)([^\W\d]\w{0,60})\s{0,4}\??:\s{0,4}[\"']?((?:[^\W\d]\w{0,60}[.\[|& \]]{0,4}){1,4})")
_MADE = re.compile(
    r"(?<!\w)([^\W\d]\w{0,60})\s{0,4}(?::[^=\n]{0,80})?:?=\s{0,4}(?:await\s{1,4})?(?:new\s{1,4}|&)?"
    r"((?:[^\W\d]\w{0,60}\.){0,6}[^\W\d]\w{0,60})\s{0,4}[({<]"
)
_RETURNED = re.compile(r"(?:->|\)\s{0,4}:)\s{0,4}([^{=]{1,200}?):?\s{0,4}$")  # by a function, at its signature's end
_CONSTRUCTORS = ("__init__", "constructor", "new")
_PLAIN = {"None", "Any", "Optional", "Union", "List", "Dict", "Promise", "Array", "String", "Callable", "Iterable"}
_SAME_FOLDER = ("go", "java", "kotlin", "csharp", "swift")  # whose files see those of their folder
_MAX_IMPORTS = 60
_MAX_WANTED = 40  # names that are looked up anywhere
_MAX_TOP = 24  # definitions of a counterpart
_MAX_CALLED = 8  # functions whose results are asked for
_KINSHIP = 0.6  # of a name whose words are all near the cursor
_MAX_RARE = 12  # words that similar windows are looked for by
_MAX_FREQUENCY = 400  # windows that have such a word
_MAX_ALIKE = 0.5  # of a window's words: what is more alike is repeated
_MIN_ALIKE = 0.12
_MAX_WINDOWS = 2
_KEY_LINES = 120  # of a private key, at most
_MIN_WORDS = 6  # of a window


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor in a file.

    Attributes:
        path: relative to the folder.
        prefix, suffix: the text before and after it, with LF line ends.
        tree: of the whole text; ``None`` without a grammar.
    """

    path: str
    prefix: str
    suffix: str
    tree: SyntaxTree | None
    language: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is needed from another file.

    Attributes:
        path: the file's, relative to the folder.
        reason: why, for the user.
        score: larger is more needed.
        declaration: a definition, or ``None`` if ``text`` has lines of the file.
        owner: the class that the definition is a member of.
    """

    path: str
    reason: str
    score: float
    line: int
    declaration: Declaration | None = None
    owner: Declaration | None = None
    text: str = ""


def find_context(database: sqlite3.Connection, folder: Path, place: Place) -> list[Finding]:
    """Find what a place may need from other files, the most needed first."""
    search = _Search(database, folder, place)
    found: dict[tuple[str, str, str, int], Finding] = {}
    for finding in search.run():
        name, parent = (finding.declaration.name, finding.declaration.parent) if finding.declaration else ("", "")
        key = finding.path, parent, name, 0 if name else finding.line
        if finding.path != place.path and (key not in found or found[key].score < finding.score):
            found[key] = finding
    shown = {(one.path, one.line // WINDOW_LINES) for one in found.values() if one.declaration is not None}
    # Lines whose definitions are found are not shown twice.
    kept = (one for one in found.values() if one.declaration or (one.path, one.line // WINDOW_LINES) not in shown)
    return sorted(kept, key=lambda finding: -finding.score)


class _Search:
    """One question."""

    def __init__(self, database: sqlite3.Connection, folder: Path, place: Place) -> None:
        self._database, self._folder, self._place = database, folder, place
        self._resolver = Resolver(database, folder, place.path, place.language)
        tree = place.tree
        self._imports = list_imports(tree)[:_MAX_IMPORTS] if tree is not None else []
        self._own = list_declarations(tree) if tree is not None else []
        self._line = place.prefix.count("\n")
        before = place.prefix.split("\n")[-_LINES_BEFORE:]
        after = place.suffix.split("\n")[:_LINES_AFTER]
        self._counts = Counter(_NAME.findall(place.prefix + place.suffix))
        self._near = "\n".join(before) + "\n".join(after)
        self._weights = _weigh_names(before, after)
        self._words = _weigh_words(self._weights)
        self._scope = self._find_scope()
        self._attributes = self._list_attributes()
        self._instances = self._find_instances()

    def run(self) -> Iterator[Finding]:
        """Yield all findings, in any order and more than once."""
        bound = {one.alias for one in self._imports if one.alias}
        for one in self._imports:
            yield from self._follow_import(one)
        yield from self._list_parents()
        yield from self._find_neighbours(bound)
        yield from self._find_similar()
        yield from self._find_counterpart()

    def _find_scope(self) -> Declaration | None:
        """Return the class around the cursor."""
        around = [one for one in self._own if one.kind in ("class", "type") and one.line <= self._line]
        inside = [one for one in around if self._line <= one.end_line + 2]
        return inside[-1] if inside else None

    def _list_attributes(self) -> dict[str, set[str]]:
        """Return what is taken of each name near the cursor: ``{"os.path": {"join"}}``."""
        found: dict[str, set[str]] = {}
        for match in _ATTRIBUTE.finditer(self._near):
            found.setdefault(match[1], set()).add(match[2] or "")
        return found

    def _find_instances(self) -> dict[str, float]:
        """Return the names of the classes that something near the cursor is an instance of, weighed like that."""
        text = self._near
        if self._scope is not None:  # its attributes, whose classes the constructor tells
            members = [
                one.signature
                for one in self._own
                if one.parent == self._scope.name and (one.kind == "variable" or one.name in _CONSTRUCTORS)
            ]
            text += "\n" + "\n".join(members)
        found: dict[str, float] = {}
        called: dict[str, float] = {}
        for match in (*_TYPED.finditer(text), *_MADE.finditer(text)):
            if not (weight := self._weights.get(match[1], 0.0)):
                continue
            for name in _NAME.findall(match[2]):
                found[name] = max(found.get(name, 0.0), weight)
            if match.re is _MADE:
                called[match[2]] = max(called.get(match[2], 0.0), weight)
        for callee, weight in sorted(called.items(), key=lambda item: -item[1])[:_MAX_CALLED]:
            for name in self._find_returned(callee):
                found[name] = max(found.get(name, 0.0), weight)
        return found

    def _find_returned(self, callee: str) -> list[str]:
        """Return the names in what a function is declared to return."""
        head, _, name = callee.rpartition(".")
        if not name or name[0].isupper():
            return []
        own = [one.signature for one in self._own if one.name == name]
        signatures = own or [one.declaration.signature for one in self._resolver.find_by_name(name, bool(head))[:1]]
        match = _RETURNED.search(signatures[0]) if signatures else None
        return [part for part in _NAME.findall(match[1]) if part[0].isupper()] if match else []

    def _measure_kinship(self, name: str) -> float:
        """Return the share of a name's words that are near the cursor, too: what is talked about is what is needed."""
        words = split_name(name)
        return sum(self._words.get(word, 0.0) for word in words) / max(len(words), 2)

    def _follow_import(self, one: Import) -> Iterator[Finding]:
        """Yield what an import brings that may be needed here."""
        weight = self._weigh(one.alias)
        if one.name == "*":
            yield from self._follow_star(one)
            return
        resolved = self._resolver.resolve(one.module, one.name)
        if isinstance(resolved, Module):
            yield from self._follow_module(one, resolved, weight)
            return
        for located in resolved[:3]:
            yield from self._describe(located, 2.0 + weight, f"imported as {one.alias}" if one.alias else "imported")

    def _follow_star(self, one: Import) -> Iterator[Finding]:
        """Yield what is named near the cursor of all that an import brings."""
        module = self._resolver.resolve(one.module, "")
        for file, _ in module.files[:40] if isinstance(module, Module) else ():
            for located in self._resolver.list_top(file):
                if weight := self._weights.get(located.declaration.name, 0.0):
                    yield from self._describe(located, 3.0 + weight, f"imported by * from {one.module}")

    def _weigh(self, alias: str) -> float:
        """Return how much a name is needed: used near the cursor, or brought in and not used yet."""
        head = alias.partition(".")[0]
        if weight := max(self._weights.get(head, 0.0), self._instances.get(head, 0.0)):
            return 1.0 + weight
        return 1.0 if self._counts[head] == 1 else 0.0

    def _follow_module(self, one: Import, module: Module, weight: float) -> Iterator[Finding]:
        """Yield what is taken of a module near the cursor, and the heads of the rest if the module is used there."""
        taken = self._attributes.get(one.alias, set())
        for file, _ in module.files[:40]:
            for located in self._resolver.list_top(file):
                name = located.declaration.name
                if name in taken:
                    yield from self._describe(located, 3.0 + weight, f"{one.alias}.{name} is used here")
                elif weight and not name.startswith("_"):
                    score = 1.0 + weight / 2 + self._measure_kinship(name)
                    yield _make_finding(located, score, f"of the module {one.alias}, which is used here")

    def _describe(self, located: Located, score: float, reason: str, depth: int = 1) -> Iterator[Finding]:
        """Yield a definition, and the members of a class that may be needed."""
        declaration = located.declaration
        score += _KINSHIP * self._measure_kinship(declaration.name)
        yield _make_finding(located, score, reason)
        if declaration.kind == "variable" and (match := _MADE.search(declaration.signature)) and depth:
            for made in self._resolver.find_by_name(match[2].rpartition(".")[2])[:1]:
                self._instances.setdefault(made.declaration.name, 0.5)
                yield from self._describe(made, score - 0.3, f"class of {declaration.name}", 0)
        if declaration.kind != "class":
            return
        is_instance = declaration.name in self._instances
        named = {name for names in self._attributes.values() for name in names}
        for member in self._resolver.list_members(located):
            name = member.declaration.name
            bonus = 0.4 if name in _CONSTRUCTORS or name == declaration.name else 0.0
            bonus += 0.3 if name in named else 0.0
            bonus += _KINSHIP * self._measure_kinship(name)
            bonus -= 1.0 if name.startswith("_") and name != "__init__" else 0.0
            base = score - (0.2 if is_instance else 0.9)
            why = "an instance is used here" if is_instance else reason
            finding = _make_finding(member, base + bonus, f"member of {declaration.name}: {why}")
            yield replace(finding, owner=declaration)

    def _list_parents(self) -> Iterator[Finding]:
        """Yield what the parents of the class around the cursor define, which can be called or overridden."""
        for base in self._scope.bases if self._scope is not None else ():
            imported = next((one for one in self._imports if one.alias.rpartition(".")[2] == base), None)
            found = self._resolver.resolve(imported.module, imported.name) if imported is not None else []
            candidates = found if isinstance(found, list) and found else self._resolver.find_by_name(base)
            for parent in candidates[:1]:
                yield _make_finding(parent, 3.2, f"parent of {self._scope.name}" if self._scope else "")
                own = {one.name for one in self._own}
                for member in self._resolver.list_members(parent):
                    score = (
                        2.6
                        + self._measure_kinship(member.declaration.name)
                        - (0.8 if member.declaration.name in own else 0.0)
                    )
                    finding = _make_finding(member, score, f"member of the parent {base}")
                    yield replace(finding, owner=parent.declaration)
                    yield from self._follow_attribute(member)

    def _follow_attribute(self, member: Located) -> Iterator[Finding]:
        """Yield the class of an attribute that is used near the cursor."""
        declaration = member.declaration
        if declaration.kind != "variable" or not (weight := self._weights.get(declaration.name, 0.0)):
            return
        for match in (*_TYPED.finditer(declaration.signature), *_MADE.finditer(declaration.signature)):
            for name in set(_NAME.findall(match[2])) - _PLAIN:
                for located in self._resolver.find_by_name(name)[:1]:
                    self._instances.setdefault(name, weight)
                    yield from self._describe(located, 2.4 + weight, f"class of self.{declaration.name}", 0)

    def _find_neighbours(self, bound: set[str]) -> Iterator[Finding]:
        """Yield definitions by their name alone, of names near the cursor that nothing in the file explains."""
        own = {one.name for one in self._own}
        wanted = [name for name in self._weights if name not in own and name not in bound and len(name) > 3]
        if self._place.language in _SAME_FOLDER:
            for located in self._resolver.find_in_folder(name for name in self._weights if name not in own):
                weight = self._weights[located.declaration.name]
                yield from self._describe(located, 3.0 + weight, "in the same folder, named here")
        for name, weight in list(self._instances.items()):
            if name not in own and name not in bound and name not in _PLAIN:
                for located in self._resolver.find_by_name(name)[:1]:
                    yield from self._describe(located, 2.0 + weight, f"{name} is the class of something here")
        called = set(re.findall(r"(?<!\w)([^\W\d]\w{0,60})\s{0,4}\(", self._near))
        taken = {name for names in self._attributes.values() for name in names if name}
        for name in sorted(wanted, key=lambda name: -self._weights[name])[:_MAX_WANTED]:
            if not (name in called or name in self._instances or name[0].isupper()):
                continue
            is_member = name in taken
            for located in self._resolver.find_by_name(name, is_member)[:1]:
                owner = self._find_owner(located) if is_member else None
                if owner is not None and owner.declaration.kind == "type":  # which has all of it
                    located, owner = owner, None
                finding = _make_finding(located, 1.2 + self._weights[name], f"{name} is named here")
                yield replace(finding, owner=owner.declaration if owner is not None else None)

    def _find_owner(self, member: Located) -> Located | None:
        found = self._resolver.find_in_file(member.file, member.declaration.parent)
        return found[0] if found else None

    def _find_similar(self) -> Iterator[Finding]:
        """Yield the windows that share the rarest words with the text around the cursor, unless they repeat it."""
        words = extract_words(self._near)
        count = "SELECT doc FROM word_count WHERE term = ?"
        frequencies = []
        for word in words:
            row = self._database.execute(count, (word.lower(),)).fetchone()
            if row is not None and row[0] <= _MAX_FREQUENCY:
                frequencies.append((row[0], word))
        rare = [word for _, word in sorted(frequencies)[:_MAX_RARE]]
        if len(rare) < 2:
            return
        query = (
            "SELECT f.path, w.line, w.words FROM word JOIN window w ON w.id = word.rowid JOIN file f ON f.id = w.file "
            "WHERE word MATCH ? AND f.path != ? LIMIT 400"
        )
        matched = self._database.execute(query, (" OR ".join(f'"{word}"' for word in rare), self._place.path))
        scored = []
        for path, line, text in matched:
            other = set(text.split(" "))
            alike = len(words & other) / max(1, len(words | other))
            if len(other) >= _MIN_WORDS and alike >= _MIN_ALIKE and len(words & other) <= _MAX_ALIKE * len(other):
                scored.append((alike, path, line))
        for alike, path, line in sorted(scored, reverse=True)[:_MAX_WINDOWS]:
            if text := self._read_window(path, line):
                reason = f"much like the lines here ({alike:.0%} of the words)"
                yield Finding(path, reason, 1.0 + alike, line, text=text)

    def _read_window(self, path: str, line: int) -> str:
        found = read_text(self._folder, path) if is_inside(self._folder, path) else None
        if found is None:
            return ""
        # With the lines around: a private key has no more.
        lines, first = found[0].split("\n"), max(0, line - _KEY_LINES)
        around = blank_secret_lines("\n".join(lines[first : line + WINDOW_LINES + _KEY_LINES])).split("\n")
        return "\n".join(around[line - first : line - first + WINDOW_LINES]).strip("\n")

    def _find_counterpart(self) -> Iterator[Finding]:
        """Yield the heads of what a test tests, and of the tests of a file."""
        stem = posixpath.basename(self._place.path).partition(".")[0]
        bare = re.sub(r"^test_|_tests?$|Tests?$", "", stem)
        others = [bare] if bare != stem else [f"test_{stem}", f"{stem}_test", f"{stem}Test"]
        marks = ",".join("?" * len(others))
        query = f"SELECT id, path FROM file WHERE stem IN ({marks}) AND language = ?"
        rows = self._database.execute(query, (*others, self._place.language)).fetchall()
        rows.sort(key=lambda row: self._resolver.measure_distance(row[1]))
        for file, _ in rows[:1]:
            reason = "what this file tests" if bare != stem else "the test of this file"
            for located in self._resolver.list_top(file)[:_MAX_TOP]:
                yield _make_finding(located, 1.6 if bare != stem else 0.6, reason)


def _weigh_words(weights: dict[str, float]) -> dict[str, float]:
    """Return the words that names near the cursor are made of, weighed like these."""
    found: dict[str, float] = {}
    for name, weight in weights.items():
        for word in split_name(name):
            found[word] = max(found.get(word, 0.0), weight)
    return found


def split_name(name: str) -> set[str]:
    """Split a name into the words that it is made of, in lower case."""
    return {part.lower() for part in _SUBWORD.findall(name) if len(part) > 2}


def _make_finding(located: Located, score: float, reason: str) -> Finding:
    return Finding(located.path, reason, score, located.declaration.line, located.declaration)


def _weigh_names(before: list[str], after: list[str]) -> dict[str, float]:
    """Return the names near the cursor, weighed by how near they are: 1 on its line, a half eight lines away."""
    weights: dict[str, float] = {}
    for lines in (reversed(before), iter(after)):
        for distance, line in enumerate(lines):
            for name in _NAME.findall(line):
                weights[name] = max(weights.get(name, 0.0), 1 / (1 + distance / 8))
    return weights
