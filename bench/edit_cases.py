"""Small edits that people made, with the message they gave them, from the histories of git clones.

A case is a commit that changes one Python file in one to five lines and says what it does; beside the file it may
change tests and prose. A clone whose licence is not permissive, or whose package the shipped model has seen, is
refused. The same clone gives the same cases: they are taken in the order of their commits' names, which is as good
as at random. Knows git and Python's grammar; no models and no diffs.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

TRAINING = Path(__file__).parent.parent / "training"
MOST_CHANGED, MOST_HUNKS, MOST_PER_FILE = 5, 3, 2
SHORTEST, LONGEST, WIDEST = 20, 400, 20_000  # lines, lines, characters of a file
_LONGEST_MESSAGE = 100
_RECORD = "\x01"
_LICENCE_FILE = re.compile(r"(?:LICEN[CS]E|COPYING)(?:[-.](?:txt|md|rst))?", re.I)
_NOT_CODE = re.compile(
    r"(?:.*/)?(?:tests?|testing|docs?|\.github|locale)/.*"
    r"|(?:.*/)?(?:test_.*|.*_test|(?:run_?)?tests?|conftest)\.py"
    r"|.*\.(?:md|rst|txt|po|pot|yml|yaml|cfg|toml|ini|lock)|(?:.*/)?[A-Z]+"
)
_NOT_WANTED = re.compile(
    r"(?:.*/)?(?:setup|versioneer|_version|version|__version__|__about__)\.py"
    r"|(?:.*/)?(?:examples?|benchmarks?|vendor|_vendor|vendored|migrations|packages)/.*"
)
_SAYS_NOTHING = re.compile(
    r"\b(?:merged?|merging|bump(?:s|ed)?|releas(?:e|es|ed|ing)|versions?|change ?logs?|history|typos?|spelling|"
    r"revert(?:s|ed)?|wip|lint(?:s|er|ing)?|flake8|pep-?8|ruff|black|isort|pylint|mypy|pyupgrade|reformat(?:ted)?|formatting|"
    r"whitespaces?|copyright|years?|coverage|review|feedback|squash|fixup|misc|cosmetic)\b"
    r"|^(?:update|fix|edit|change)[sd]?\s+\S+\.py$",
    re.I,
)
_REFERENCE = re.compile(
    r"\s*[(\[][^()\[\]]*#\d+[^()\[\]]*[)\]]|\s*[-,;.:]?\s*\b(?:(?:fix|clos|resolv)(?:e[sd]?|ing)?|refs?|see|issue|for|gh)"
    r":?\s*(?:issue\s*)?[\w/-]*#\d+\b|\s*\[[a-z -]*(?:ci|skip)[a-z -]*\]|\s*\b(?:GH|issue)[- ]?\d+\b|\s*#\d+\b",
    re.I,
)
_LICENCES = (
    ("MIT", "permission is hereby granted, free of charge, to any person obtaining a copy"),
    ("Apache-2.0", "apache license version 2.0"),
    ("ISC", "permission to use, copy, modify, and/or distribute this software for any purpose with or without fee"),
    ("ISC", "permission to use, copy, modify, and distribute this software for any purpose with or without fee"),
    ("BSD", "redistribution and use in source and binary forms"),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One edit: whose it is, what was asked for, the file before and after."""

    repository: str
    commit: str
    licence: str
    path: str
    message: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Clone:
    """A clone on this machine, bare or with a work tree, and the name that its cases carry."""

    name: str
    folder: Path

    def git(self, *arguments: str, given: bytes | None = None) -> bytes:
        """What a git command prints.

        Raises:
            ValueError: git failed; the message is its own.
        """
        command = ["git", "-C", str(self.folder), "-c", "core.quotePath=false", *arguments]
        done = subprocess.run(command, input=given, capture_output=True, check=False)
        if done.returncode:
            raise ValueError(f"{self.name}: {done.stderr.decode('utf-8', 'replace').strip()}")
        return done.stdout


@dataclass(frozen=True, slots=True)
class Touched:
    """A commit's subject and its one changed Python file: path, blob before, blob after."""

    commit: str
    subject: str
    path: str
    before: str
    after: str


def clone(argument: str) -> Clone:
    """A clone from ``NAME=FOLDER`` or ``FOLDER``, which then is called by its origin or its folder."""
    name, _, folder = argument.rpartition("=")
    found = Clone(name or Path(folder).resolve().name.removesuffix(".git"), Path(folder))
    if name:
        return found
    try:
        origin = found.git("config", "--get", "remote.origin.url").decode().strip().removesuffix(".git")
    except ValueError:
        return found
    return Clone("/".join(re.split(r"[/:]", origin)[-2:]), found.folder)


def licence(text: str) -> str | None:
    """The permissive licence that a text is, by its own words; ``None`` for every other."""
    words = " ".join(text.lower().split())
    if re.search(r"gnu (?:lesser |affero |library )?general public|mozilla public", words):
        return None
    found = next(
        (
            name
            for name, phrase in _LICENCES
            if phrase in words.replace(",version", " version").replace("license, version", "license version")
        ),
        None,
    )
    return f"BSD-{3 if 'neither the name' in words or 'names of' in words else 2}-Clause" if found == "BSD" else found


def clone_licence(source: Clone) -> str:
    """The licence in the clone's newest commit.

    Raises:
        ValueError: it has none that is known and permissive.
    """
    names = source.git("ls-tree", "--name-only", "HEAD").decode().splitlines()
    files = [name for name in names if _LICENCE_FILE.fullmatch(name)]
    known = [licence(source.git("show", f"HEAD:{name}").decode("utf-8", "replace")) for name in files]
    if not known or None in known:
        raise ValueError(f"{source.name}: no licence is known there that is MIT, BSD, Apache or ISC")
    return " and ".join(sorted({str(one) for one in known}))


def canonical(package: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", package.strip().lower())


def seen_in_training(folder: Path = TRAINING) -> frozenset[str]:
    """Names of the packages that the shipped model was trained or validated on: those listed, and those noted."""
    rows = [row for path in sorted(folder.glob("packages*.txt")) for row in path.read_text("utf-8").splitlines()]
    listed = [re.split(r"==|(?<!^)@", row.split("#")[0])[0] for row in rows]
    notice = folder / "NOTICE"
    noted = [row.split()[0] for row in notice.read_text("utf-8").splitlines()[2:] if row.strip()]
    return frozenset(canonical(name) for name in [*listed, *noted] if name.strip())


def package_names(source: Clone) -> frozenset[str]:
    """What the clone's package may be called: by its repository, by its folders, by its own metadata."""
    tree = source.git("ls-tree", "--name-only", "HEAD").decode().splitlines()
    found = {source.name.rsplit("/", 1)[-1], *(name.removesuffix(".py") for name in tree if name.endswith(".py"))}
    inner = source.git("ls-tree", "-r", "--name-only", "HEAD").decode().splitlines()
    found |= {path.split("/")[-2] for path in inner if re.fullmatch(r"(?:src/|lib/)?[^/]+/__init__\.py", path)}
    for name in {"pyproject.toml", "setup.cfg", "setup.py"} & set(tree):
        text = source.git("show", f"HEAD:{name}").decode("utf-8", "replace")
        found |= set(re.findall(r"""^\s*name\s*=\s*["']?([\w.-]+)""", text, re.M)[:1])
    return frozenset(map(canonical, found)) - {"setup", "tests", "test", "docs", "examples", "conftest", "utils"}


def message(subject: str) -> str | None:
    """A commit's subject as a request, without references to issues; ``None`` where it does not say what to do."""
    text = _REFERENCE.sub("", " ".join(subject.split())).strip(" .,;:-")
    words = re.findall(r"[^\W\d_]{2,}", text)
    good = len(words) >= 3 and len(text) <= _LONGEST_MESSAGE and not _SAYS_NOTHING.search(text) and "<" not in text
    return text if good and not re.match(r"\W*(?:v?\d+\.\d|\[)", text) else None


def changed(before: Sequence[str], after: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """The changed runs of lines: ``before[a:b]`` became ``after[c:d]``."""
    codes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return [(a, b, c, d) for tag, a, b, c, d in codes if tag != "equal"]


def small(before: str, after: str) -> bool:
    """Whether one to five lines changed, at three places at most, in more than blanks; a replaced line is one."""
    one, other = before.split("\n"), after.split("\n")
    runs = changed(one, other)
    lines = sum(max(b - a, d - c) for a, b, c, d in runs)
    said = "".join(before.split()) != "".join(after.split())
    return said and 1 <= lines <= MOST_CHANGED and len(runs) <= MOST_HUNKS


def whole(text: str) -> bool:
    """Whether a file can be a case: Python of a size that fits, with LF alone and a line end at its end."""
    lines = text.count("\n")
    if not SHORTEST <= lines <= LONGEST or len(text) > WIDEST or "\r" in text or not text.endswith("\n"):
        return False
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def commits(source: Clone) -> Iterator[Touched]:
    """The commits that change one Python file in few lines, and nothing else but tests and prose; no merges."""
    log = source.git(
        "log", "--no-merges", "--no-renames", "--raw", "--numstat", "--no-abbrev", f"--format={_RECORD}%H%n%s", "HEAD"
    ).decode("utf-8", "replace")
    for record in log.split(_RECORD)[1:]:
        commit, subject, *rows = [*record.split("\n"), ""]
        raw = [row[1:].replace("\t", " ", 1).split(" ", 5) for row in rows if row.startswith(":")]
        code = [row for row in raw if not _NOT_CODE.fullmatch(row[5])]
        if len(code) != 1 or code[0][4] != "M" or not code[0][5].endswith(".py") or _NOT_WANTED.fullmatch(code[0][5]):
            continue
        counts = next((row.split("\t")[:2] for row in rows if row.endswith("\t" + code[0][5]) and row[:1] != ":"), [])
        if counts and all(count.isdigit() and int(count) <= MOST_CHANGED for count in counts):
            yield Touched(commit, subject, code[0][5], code[0][2], code[0][3])


def _texts(source: Clone, blobs: Iterable[str]) -> dict[str, str]:
    """The text of each blob that is UTF-8."""
    wanted = sorted(set(blobs))
    data = source.git("cat-file", "--batch", given="".join(blob + "\n" for blob in wanted).encode())
    found: dict[str, str] = {}
    at = 0
    for blob in wanted:
        line_end = data.index(b"\n", at)
        head, at = data[at:line_end], line_end + 1
        if head.endswith(b" missing"):
            continue
        size = int(head.split()[2])
        try:
            found[blob] = data[at : at + size].decode()
        except UnicodeDecodeError:
            pass
        at += size + 1
    return found


def cases(source: Clone, most: int, seen: frozenset[str] | None = None) -> list[Case]:
    """A clone's cases, so many at most.

    Raises:
        ValueError: the clone cannot be read, its licence is not permissive, or its package was trained on.
    """
    if known := package_names(source) & (seen_in_training() if seen is None else seen):
        raise ValueError(f"{source.name}: the shipped model has seen {', '.join(sorted(known))}")
    terms = clone_licence(source)
    touched = sorted(commits(source), key=lambda one: one.commit)
    asked = [(one, said) for one in touched if (said := message(one.subject))]
    texts = _texts(source, (blob for one, _ in asked for blob in (one.before, one.after)))
    found: list[Case] = []
    per_file, messages = Counter[str](), set[str]()
    for one, said in asked:
        before, after = texts.get(one.before, ""), texts.get(one.after, "")
        fits = per_file[one.path] < MOST_PER_FILE and said.lower() not in messages
        if len(found) < most and fits and whole(before) and whole(after) and small(before, after):
            found.append(Case(source.name, one.commit, terms, one.path, said, before, after))
            per_file[one.path] += 1
            messages.add(said.lower())
    return found
