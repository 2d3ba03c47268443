"""The training data as compressed files that are small enough to carry to another machine, and back to a work folder.

`pack` writes the corpus and the tokenizer as loads: folders of at most `--megabytes` each, with xz-compressed JSON
lines `[file, line]`, and in every load the same manifest of all files and their hashes. `unpack` takes loads one at a
time, in any order, and puts the files back when the last one is there; nothing is half written. Edits are not packed
but made again from the corpus where they are needed: they are several times its size. `split` and `join` cut one large
file into parts and put it together.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = ("corpus/train.jsonl", "corpus/valid.jsonl", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json")
RAW_BYTES = 40_000_000  # of one shard before compression; source code packs to a fifth or a sixth
MANIFEST = "manifest.json"


def iter_records(work: Path) -> Iterator[bytes]:
    """Every line of the files, with the name of its file."""
    for name in FILES:
        with (work / name).open(newline="\n") as lines:
            for line in lines:
                yield json.dumps([name, line]).encode() + b"\n"


def iter_chunks(work: Path, size: int) -> Iterator[bytes]:
    """The records in pieces of about `size` bytes."""
    piece = bytearray()
    for record in iter_records(work):
        piece += record
        if len(piece) >= size:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def pack(work: Path, to: Path, most: int, processes: int, raw: int = RAW_BYTES) -> list[Path]:
    """The loads, written anew.

    Raises:
        ValueError: one shard alone is larger than a load may be.
    """
    shutil.rmtree(to, ignore_errors=True)
    loads: list[Path] = []
    room, hashes = 0, dict[str, str]()
    with ProcessPoolExecutor(processes) as pool:
        for number, packed in enumerate(pool.map(lzma.compress, iter_chunks(work, raw))):
            if len(packed) > most:
                raise ValueError(f"a shard of {len(packed)} bytes does not fit into a load of {most}")
            if len(packed) > room:
                loads.append(to / str(len(loads)))
                loads[-1].mkdir(parents=True)
                room = most
            name = f"{number:04}.xz"
            (loads[-1] / name).write_bytes(packed)
            hashes[name] = hashlib.sha256(packed).hexdigest()
            room -= len(packed)
    for load in loads:
        (load / MANIFEST).write_text(json.dumps(hashes))
    return loads


def unpack(loads: list[Path], work: Path) -> list[str]:
    """Take loads into a work folder; returns the names of the shards that are still missing.

    Raises:
        ValueError: a shard is damaged.
    """
    taken = work / "taken"
    taken.mkdir(parents=True, exist_ok=True)
    hashes: dict[str, str] = {}
    for load in loads:
        hashes = json.loads((load / MANIFEST).read_text())
        for shard in sorted(load.glob("*.xz")):
            if hashlib.sha256(shard.read_bytes()).hexdigest() != hashes[shard.name]:
                raise ValueError(f"{shard} is damaged: carry it again")
            shutil.copy(shard, taken / shard.name)
    missing = [name for name in sorted(hashes) if not (taken / name).is_file()]
    if not missing:
        restore_files([taken / name for name in sorted(hashes)], work)
        shutil.rmtree(taken)
    return missing


def restore_files(shards: list[Path], work: Path) -> None:
    """The files from all their shards."""
    for name in FILES:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
    files = {name: (work / f"{name}.new").open("w", newline="\n") for name in FILES}
    for shard in shards:
        with lzma.open(shard, "rt", encoding="utf-8", newline="\n") as lines:
            for record in lines:
                name, line = json.loads(record)
                files[name].write(line)
    for name, file in files.items():
        file.close()
        (work / f"{name}.new").replace(work / name)


def split_file(file: Path, to: Path, most: int) -> list[Path]:
    """A file in numbered parts of at most `most` bytes."""
    to.mkdir(parents=True, exist_ok=True)
    content = file.read_bytes()
    parts = [to / f"{file.name}.{at // most:02}" for at in range(0, len(content), most)]
    for number, part in enumerate(parts):
        part.write_bytes(content[number * most : (number + 1) * most])
    return parts


def join_parts(first: Path, to: Path) -> None:
    """The file from its parts, which stand beside the first one."""
    parts = sorted(first.parent.glob(f"{first.name.removesuffix('.00')}.[0-9][0-9]"))
    to.write_bytes(b"".join(part.read_bytes() for part in parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("pack", help="<work> to <work>/loads/0, 1, ...")
    one.add_argument("--megabytes", type=int, default=60)
    one.add_argument("--processes", type=int, default=2)
    one = verbs.add_parser("unpack", help="loads to <work>")
    one.add_argument("loads", type=Path, nargs="+")
    for verb in verbs.choices.values():
        verb.add_argument("--work", type=Path, default=HERE / "work")
    one = verbs.add_parser("split", help="a file to parts")
    one.add_argument("file", type=Path)
    one.add_argument("--to", type=Path, required=True)
    one.add_argument("--megabytes", type=int, default=15)
    one = verbs.add_parser("join", help="parts to a file")
    one.add_argument("first", type=Path, help="the part that ends in .00")
    one.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    if options.verb == "pack":
        for load in pack(options.work, options.work / "loads", options.megabytes * 2**20, options.processes):
            print(load, sum(file.stat().st_size for file in load.iterdir()), "bytes")
    elif options.verb == "unpack":
        missing = unpack(options.loads, options.work)
        print(f"still missing: {', '.join(missing)}" if missing else f"complete in {options.work}")
    elif options.verb == "split":
        print(*split_file(options.file, options.to, options.megabytes * 2**20), sep="\n")
    else:
        join_parts(options.first, options.to)


if __name__ == "__main__":
    main()
