"""Collect small edits with their commit messages from the histories of git clones.

A case is a commit that changes one to five lines of one Python file and describes the change in its subject; besides
the file it may change tests and prose. A clone is refused if its licence is not permissive, or if the shipped model
was trained on its package. The same clone gives the same cases: they are taken in the order of their commit hashes,
which is practically random. Knows git and Python's grammar; no models and no diffs.
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
MAX_CHANGED_LINES, MAX_HUNKS, MAX_PER_FILE = 5, 3, 2
MIN_LINES, MAX_LINES, MAX_CHARACTERS = 20, 400, 20_000  # of a file
_MAX_MESSAGE_LENGTH = 100
_RECORD = "\x01"
_LICENCE_FILE = re.compile(r"(?:LICEN[CS]E|COPYING)(?:[-.](?:txt|md|rst))?", re.I)
_NOT_CODE = re.compile(
    r"(?:.*/)?(?:tests?|testing|docs?|\.github|locale)/.*"
    r"|(?:.*/)?(?:test_.*|.*_test|(?:run_?)?tests?|conftest)\.py"
    r"|.*\.(?:md|rst|txt|po|pot|yml|yaml|cfg|toml|ini|lock)|(?:.*/)?[A-Z]+"
)
_EXCLUDED = re.compile(
    r"(?:.*/)?(?:setup|versioneer|_version|version|__version__|__about__)\.py"
    r"|(?:.*/)?(?:examples?|benchmarks?|vendor|_vendor|vendored|migrations|packages)/.*"
)
_UNINFORMATIVE = re.compile(
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
    """One edit: its origin, its message, the file before and after."""

    repository: str
    commit: str
    licence: str
    path: str
    message: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Clone:
    """A clone on this machine, bare or with a work tree, and the repository's name in its cases."""

    name: str
    folder: Path

    def run_git(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        """Run a git command and return its output.

        Raises:
            ValueError: git failed; with git's message.
        """
        command = ["git", "-C", str(self.folder), "-c", "core.quotePath=false", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, check=False)
        if done.returncode:
            raise ValueError(f"{self.name}: {done.stderr.decode('utf-8', 'replace').strip()}")
        return done.stdout


@dataclass(frozen=True, slots=True)
class FileChange:
    """A commit's subject and its one changed Python file: path, blob before, blob after."""

    commit: str
    subject: str
    path: str
    before: str
    after: str


def open_clone(argument: str) -> Clone:
    """Return the clone ``NAME=FOLDER``, or ``FOLDER``, which is then named by its origin or its folder."""
    name, _, folder = argument.rpartition("=")
    found = Clone(name or Path(folder).resolve().name.removesuffix(".git"), Path(folder))
    if name:
        return found
    try:
        origin = found.run_git("config", "--get", "remote.origin.url").decode().strip().removesuffix(".git")
    except ValueError:
        return found
    return Clone("/".join(re.split(r"[/:]", origin)[-2:]), found.folder)


def detect_licence(text: str) -> str | None:
    """Detect which permissive licence a text is, by its wording; return ``None`` for all others."""
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


def find_clone_licence(source: Clone) -> str:
    """Return the licence in the clone's newest commit.

    Raises:
        ValueError: it has no licence that is known to be permissive.
    """
    names = source.run_git("ls-tree", "--name-only", "HEAD").decode().splitlines()
    files = [name for name in names if _LICENCE_FILE.fullmatch(name)]
    known = [detect_licence(source.run_git("show", f"HEAD:{name}").decode("utf-8", "replace")) for name in files]
    if not known or None in known:
        raise ValueError(f"{source.name}: found no licence that is MIT, BSD, Apache or ISC")
    return " and ".join(sorted({str(name) for name in known}))


def canonicalize_name(package: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", package.strip().lower())


def read_training_packages(folder: Path = TRAINING) -> frozenset[str]:
    """Read the names of the packages that the shipped model was trained or validated on, from lists and NOTICE."""
    rows = [row for path in sorted(folder.glob("packages*.txt")) for row in path.read_text("utf-8").splitlines()]
    listed = [re.split(r"==|(?<!^)@", row.split("#")[0])[0] for row in rows]
    notice = folder / "NOTICE"
    noted = [row.split()[0] for row in notice.read_text("utf-8").splitlines()[2:] if row.strip()]
    return frozenset(canonicalize_name(name) for name in [*listed, *noted] if name.strip())


def find_package_names(source: Clone) -> frozenset[str]:
    """Return the possible names of the clone's package: of the repository, its folders, its metadata."""
    tree = source.run_git("ls-tree", "--name-only", "HEAD").decode().splitlines()
    found = {source.name.rsplit("/", 1)[-1], *(name.removesuffix(".py") for name in tree if name.endswith(".py"))}
    inner = source.run_git("ls-tree", "-r", "--name-only", "HEAD").decode().splitlines()
    found |= {path.split("/")[-2] for path in inner if re.fullmatch(r"(?:src/|lib/)?[^/]+/__init__\.py", path)}
    for name in {"pyproject.toml", "setup.cfg", "setup.py"} & set(tree):
        text = source.run_git("show", f"HEAD:{name}").decode("utf-8", "replace")
        found |= set(re.findall(r"""^\s*name\s*=\s*["']?([\w.-]+)""", text, re.M)[:1])
    return frozenset(map(canonicalize_name, found)) - {
        "setup",
        "tests",
        "test",
        "docs",
        "examples",
        "conftest",
        "utils",
    }


def clean_subject(subject: str) -> str | None:
    """Return a commit's subject without references to issues; ``None`` if it does not describe the change."""
    text = _REFERENCE.sub("", " ".join(subject.split())).strip(" .,;:-")
    words = re.findall(r"[^\W\d_]{2,}", text)
    good = len(words) >= 3 and len(text) <= _MAX_MESSAGE_LENGTH and not _UNINFORMATIVE.search(text) and "<" not in text
    return text if good and not re.match(r"\W*(?:v?\d+\.\d|\[)", text) else None


def find_changes(before: Sequence[str], after: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """Return the changed ranges of lines: ``before[a:b]`` became ``after[c:d]``."""
    codes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return [(a, b, c, d) for tag, a, b, c, d in codes if tag != "equal"]


def is_small_change(before: str, after: str) -> bool:
    """Return whether 1 to 5 lines in at most 3 places changed in more than whitespace; a replaced line counts once."""
    old_lines, new_lines = before.split("\n"), after.split("\n")
    ranges = find_changes(old_lines, new_lines)
    lines = sum(max(b - a, d - c) for a, b, c, d in ranges)
    differs = "".join(before.split()) != "".join(after.split())
    return differs and 1 <= lines <= MAX_CHANGED_LINES and len(ranges) <= MAX_HUNKS


def is_suitable_file(text: str) -> bool:
    """Return whether a file can be a case: valid Python of moderate size, LF only, with a final line end."""
    lines = text.count("\n")
    if not MIN_LINES <= lines <= MAX_LINES or len(text) > MAX_CHARACTERS or "\r" in text or not text.endswith("\n"):
        return False
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def iter_commits(source: Clone) -> Iterator[FileChange]:
    """Yield the commits that change a few lines of one Python file and otherwise only tests and prose; no merges."""
    log = source.run_git(
        "log", "--no-merges", "--no-renames", "--raw", "--numstat", "--no-abbrev", f"--format={_RECORD}%H%n%s", "HEAD"
    ).decode("utf-8", "replace")
    for record in log.split(_RECORD)[1:]:
        commit, subject, *rows = [*record.split("\n"), ""]
        raw = [row[1:].replace("\t", " ", 1).split(" ", 5) for row in rows if row.startswith(":")]
        code = [row for row in raw if not _NOT_CODE.fullmatch(row[5])]
        if len(code) != 1 or code[0][4] != "M" or not code[0][5].endswith(".py") or _EXCLUDED.fullmatch(code[0][5]):
            continue
        counts = next((row.split("\t")[:2] for row in rows if row.endswith("\t" + code[0][5]) and row[:1] != ":"), [])
        if counts and all(count.isdigit() and int(count) <= MAX_CHANGED_LINES for count in counts):
            yield FileChange(commit, subject, code[0][5], code[0][2], code[0][3])


def _read_blobs(source: Clone, blobs: Iterable[str]) -> dict[str, str]:
    """Return the text of each blob that is UTF-8."""
    wanted = sorted(set(blobs))
    data = source.run_git("cat-file", "--batch", stdin="".join(blob + "\n" for blob in wanted).encode())
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


def collect_cases(source: Clone, limit: int, seen: frozenset[str] | None = None) -> list[Case]:
    """Collect up to ``limit`` cases from a clone.

    Raises:
        ValueError: the clone cannot be read, its licence is not permissive, or the model was trained on its package.
    """
    if known := find_package_names(source) & (read_training_packages() if seen is None else seen):
        raise ValueError(f"{source.name}: the shipped model has seen {', '.join(sorted(known))}")
    licence = find_clone_licence(source)
    commits = sorted(iter_commits(source), key=lambda change: change.commit)
    described = [(commit, message) for commit in commits if (message := clean_subject(commit.subject))]
    texts = _read_blobs(source, (blob for commit, _ in described for blob in (commit.before, commit.after)))
    found: list[Case] = []
    per_file, messages = Counter[str](), set[str]()
    for commit, message in described:
        before, after = texts.get(commit.before, ""), texts.get(commit.after, "")
        fits = per_file[commit.path] < MAX_PER_FILE and message.lower() not in messages
        if (
            len(found) < limit
            and fits
            and is_suitable_file(before)
            and is_suitable_file(after)
            and is_small_change(before, after)
        ):
            found.append(Case(source.name, commit.commit, licence, commit.path, message, before, after))
            per_file[commit.path] += 1
            messages.add(message.lower())
    return found
