"""Collect permissively licensed source files from pinned packages and from this environment into JSON lines.

Writes `<work>/corpus/train.jsonl` and `valid.jsonl` (one `SourceFile` per line; under a temporary name until complete)
and a NOTICE that lists every package with its version, licence and number of bytes. Packages marked `held-out` go to
the validation file as a whole. Nothing under `<work>` is meant to be committed. Knows nothing of tokens, samples or
models.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from training.archives import (
    LANGUAGES,
    Package,
    SourceFile,
    download_tarballs,
    download_wheels,
    get_tarball_name,
    iter_installed_packages,
    normalize_name,
    read_npm_tarball,
    read_wheel,
)

HERE = Path(__file__).resolve().parent

# Maximum bytes per package and language: without a limit, a few giants would make up most of the corpus.
MAX_BYTES = {
    "Python": 2_300_000,
    "JavaScript": 900_000,
    "TypeScript": 900_000,
    "C headers": 2_500_000,
    "Markdown": 700_000,
}
MAX_BYTES |= {"JSON": 60_000, "YAML": 200_000, "TOML": 100_000, "shell": 200_000, "HTML": 150_000, "CSS": 200_000}
MAX_BYTES |= {"Java": 1_000_000, "Kotlin": 1_000_000, "Lua": 500_000, "Rust": 1_000_000, "Go": 1_000_000}
WORD = re.compile(r"\w+")
NGRAM_SIZE = 13  # as in the decontamination of GPT-3; shorter n-grams match idioms


def read_package_list(listing: Path) -> dict[str, bool]:
    """Map each `name==version` (or `name@version`) of a list to True if it is held out for validation."""
    lines = (line.strip() for line in listing.read_text().splitlines())
    return {line.split("#")[0].strip(): "held-out" in line for line in lines if line and not line.startswith("#")}


def limit_bytes(files: Iterable[SourceFile]) -> Iterator[SourceFile]:
    """Yield files up to the byte limit of their language, in an order that depends only on their content."""
    taken: Counter[str] = Counter()
    for file in sorted(files, key=lambda f: hashlib.sha256(f.text.encode()).digest()):
        language = LANGUAGES[PurePosixPath(file.path).suffix]
        if taken[language] + len(file.text) <= MAX_BYTES[language]:
            taken[language] += len(file.text)
            yield file


class DuplicateFilter:
    """Detects near-duplicate files by their windows of five lines. Takes about 70 bytes of memory per line."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def is_duplicate(self, text: str) -> bool:
        """Return True if more than 40 % of the windows occurred before; else remember the windows."""
        lines = [line.strip() for line in text.split("\n") if len(line.strip()) > 3]
        windows = {hash(tuple(lines[i : i + 5])) for i in range(max(1, len(lines) - 4))}
        repeated = len(windows & self._seen) > 0.4 * len(windows)
        if not repeated:
            self._seen |= windows
        return repeated


def collect_benchmark_ngrams(paths: Iterable[Path]) -> frozenset[tuple[str, ...]]:
    """Collect the 13-grams of all problems and solutions in HumanEval-like JSON lines (plain or gzipped)."""
    ngrams: set[tuple[str, ...]] = set()
    for path in paths:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for task in map(json.loads, content.decode().splitlines()):
            for solution in ("canonical_solution", "buggy_solution"):
                words = WORD.findall(task["prompt"] + task.get(solution, "") + task.get("suffix", ""))
                ngrams |= set(iter_ngrams(words))
    return frozenset(ngrams)


def iter_ngrams(words: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield the 13-grams of a sequence of words."""
    return zip(*(words[i:] for i in range(NGRAM_SIZE)), strict=False)


def write_corpus(
    packages: Iterable[Package], held_out: frozenset[str], benchmark_ngrams: frozenset[tuple[str, ...]], folder: Path
) -> tuple[list[str], dict[str, Counter[str]]]:
    """Write both files; return the lines of the NOTICE and the bytes per split and language."""
    duplicates, notice, skipped = DuplicateFilter(), [], 0
    sizes: dict[str, Counter[str]] = {"train": Counter(), "valid": Counter()}
    folder.mkdir(parents=True, exist_ok=True)
    parts = {split: folder / f"{split}.jsonl.part" for split in sizes}
    with parts["train"].open("w") as train, parts["valid"].open("w") as valid:
        for package in packages:
            size, split = 0, "valid" if package.name in held_out else "train"
            for file in limit_bytes(package.files):
                if duplicates.is_duplicate(file.text):
                    continue
                if benchmark_ngrams and not benchmark_ngrams.isdisjoint(iter_ngrams(WORD.findall(file.text))):
                    skipped += 1
                    continue
                size += (length := len(file.text.encode()))
                sizes[split][LANGUAGES[PurePosixPath(file.path).suffix]] += length
                (valid if split == "valid" else train).write(json.dumps(asdict(file)) + "\n")
            if size:
                split = {"valid": "validation", "train": "training"}[split]
                notice.append(f"{package.name:32} {package.version:16} {size:>9}  {split:10}  {package.licence}")
    for split, part in parts.items():
        part.replace(folder / f"{split}.jsonl")
    print(f"{skipped} files skipped because they overlap with the benchmarks", flush=True)
    return notice, sizes


def get_package_name(requirement: str) -> str:
    """Return the `Package` name of a pinned requirement."""
    return normalize_name(requirement.split("==")[0]) if "==" in requirement else f"npm:{requirement.rsplit('@', 1)[0]}"


def iter_archives(requirements: Iterable[str], work: Path) -> Iterator[tuple[str, Path]]:
    """Yield each requirement that has been downloaded, with its archive."""
    wheels = {tuple(map(normalize_name, w.name.split("-")[:2])): w for w in sorted((work / "wheels").glob("*.whl"))}
    for requirement in requirements:
        if "==" in requirement:
            archive = wheels.get(tuple(map(normalize_name, requirement.split("=="))))
        else:
            archive = work / "npm" / get_tarball_name(requirement)
        if archive is not None and archive.exists():
            yield requirement, archive


def iter_packages(listed: dict[str, bool], work: Path) -> Iterator[Package]:
    """Yield the listed packages, then the installed ones.

    Held-out packages come first, so that of duplicate files theirs is kept.
    """
    ordered = sorted(listed, key=lambda r: (not listed[r], get_package_name(r)))
    for requirement, archive in iter_archives(ordered, work):
        package = read_wheel(archive) if archive.suffix == ".whl" else read_npm_tarball(archive)
        if package is None:
            print(f"skipped: the licence of {requirement} is not known to be permissive", flush=True)
        else:
            yield package
    skip = frozenset(map(get_package_name, listed)) | {"codeclippy-ls"}
    yield from sorted(iter_installed_packages(skip), key=lambda p: p.name)


def format_table(sizes: dict[str, Counter[str]]) -> str:
    """Format the bytes per language in training and validation."""
    order = [language for language, _ in (sizes["train"] + sizes["valid"]).most_common()]
    rows = [f"{language:12} {sizes['train'][language]:>12,} {sizes['valid'][language]:>12,}" for language in order]
    total = f"{'all':12} {sizes['train'].total():>12,} {sizes['valid'].total():>12,}"
    return "\n".join([f"{'bytes':12} {'training':>12} {'validation':>12}", *rows, total])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, nargs="*", default=[HERE / "packages.txt", HERE / "packages-npm.txt"])
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument(
        "--benchmarks",
        type=Path,
        nargs="*",
        default=[],
        help="HumanEval-like JSON lines; files that overlap with them are skipped",
    )
    parser.add_argument(
        "--installed-only", action="store_true", help="download nothing, use the packages of this environment"
    )
    parser.add_argument("--held-out", nargs="*", default=[], help="additional packages for validation")
    parser.add_argument("--notice", type=Path, help="path of the NOTICE (default: <work>/corpus/NOTICE)")
    options = parser.parse_args()
    listings = [] if options.installed_only else options.packages
    listed = {requirement: held for listing in listings for requirement, held in read_package_list(listing).items()}
    download_wheels([r for r in listed if "==" in r], options.work / "wheels")
    download_tarballs([r for r in listed if "==" not in r], options.work / "npm")
    held_out = frozenset(get_package_name(r) for r, held in listed.items() if held) | frozenset(options.held_out)
    packages = iter_packages(listed, options.work)
    notice, sizes = write_corpus(
        packages, held_out, collect_benchmark_ngrams(options.benchmarks), options.work / "corpus"
    )
    head = "Packages whose source files the model was trained or validated on: name, version, bytes, use, licence.\n\n"
    (options.notice or options.work / "corpus" / "NOTICE").write_text(head + "\n".join(sorted(notice)) + "\n")
    print(format_table(sizes), flush=True)


if __name__ == "__main__":
    main()
