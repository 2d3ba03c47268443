"""Pack the training data into bundles that are small enough to copy to another machine, and unpack them there.

`pack` writes the corpus and the tokenizer as bundles: folders of at most `--megabytes` each, with shards of
xz-compressed JSON lines `[file, line]`. Every bundle has the same manifest of all shards and their hashes. `unpack`
takes bundles one at a time, in any order, and restores the files once all shards are there; nothing is left half
written. Edits are not packed: they are several times the size of the corpus and can be made from it again. `split` and
`join` cut one large file into parts and put it together again.
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
RAW_BYTES = 40_000_000  # of one shard, uncompressed; xz reduces source code to a fifth or a sixth
MANIFEST = "manifest.json"


def iter_records(work: Path) -> Iterator[bytes]:
    """Yield every line of the files as a JSON record with the name of its file."""
    for name in FILES:
        with (work / name).open(newline="\n") as lines:
            for line in lines:
                yield json.dumps([name, line]).encode() + b"\n"


def iter_chunks(work: Path, size: int) -> Iterator[bytes]:
    """Yield the records in chunks of about `size` bytes."""
    chunk = bytearray()
    for record in iter_records(work):
        chunk += record
        if len(chunk) >= size:
            yield bytes(chunk)
            chunk.clear()
    if chunk:
        yield bytes(chunk)


def pack(work: Path, to: Path, max_bytes: int, processes: int, raw_bytes: int = RAW_BYTES) -> list[Path]:
    """Write the bundles, replacing earlier ones, and return their folders.

    Raises:
        ValueError: a shard is larger than a bundle may be.
    """
    shutil.rmtree(to, ignore_errors=True)
    bundles: list[Path] = []
    bytes_left, hashes = 0, dict[str, str]()
    with ProcessPoolExecutor(processes) as pool:
        for number, packed in enumerate(pool.map(lzma.compress, iter_chunks(work, raw_bytes))):
            if len(packed) > max_bytes:
                raise ValueError(f"a shard of {len(packed)} bytes does not fit into a bundle of {max_bytes}")
            if len(packed) > bytes_left:
                bundles.append(to / str(len(bundles)))
                bundles[-1].mkdir(parents=True)
                bytes_left = max_bytes
            name = f"{number:04}.xz"
            (bundles[-1] / name).write_bytes(packed)
            hashes[name] = hashlib.sha256(packed).hexdigest()
            bytes_left -= len(packed)
    for bundle in bundles:
        (bundle / MANIFEST).write_text(json.dumps(hashes))
    return bundles


def unpack(bundles: list[Path], work: Path) -> list[str]:
    """Copy bundles into a work folder; return the names of the shards that are still missing.

    Raises:
        ValueError: a shard is damaged.
    """
    received = work / "received"
    received.mkdir(parents=True, exist_ok=True)
    hashes: dict[str, str] = {}
    for bundle in bundles:
        hashes = json.loads((bundle / MANIFEST).read_text())
        for shard in sorted(bundle.glob("*.xz")):
            if hashlib.sha256(shard.read_bytes()).hexdigest() != hashes[shard.name]:
                raise ValueError(f"{shard} is damaged: copy it again")
            shutil.copy(shard, received / shard.name)
    missing = [name for name in sorted(hashes) if not (received / name).is_file()]
    if not missing:
        restore_files([received / name for name in sorted(hashes)], work)
        shutil.rmtree(received)
    return missing


def restore_files(shards: list[Path], work: Path) -> None:
    """Restore the files from all shards."""
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


def split_file(file: Path, to: Path, max_bytes: int) -> list[Path]:
    """Write a file as numbered parts of at most `max_bytes`."""
    to.mkdir(parents=True, exist_ok=True)
    content = file.read_bytes()
    parts = [to / f"{file.name}.{at // max_bytes:02}" for at in range(0, len(content), max_bytes)]
    for number, part in enumerate(parts):
        part.write_bytes(content[number * max_bytes : (number + 1) * max_bytes])
    return parts


def join_parts(first: Path, to: Path) -> None:
    """Write a file from its parts, which are in the folder of the first one."""
    parts = sorted(first.parent.glob(f"{first.name.removesuffix('.00')}.[0-9][0-9]"))
    to.write_bytes(b"".join(part.read_bytes() for part in parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("pack", help="write <work> as bundles to <work>/bundles/0, 1, ...")
    one.add_argument("--megabytes", type=int, default=60)
    one.add_argument("--processes", type=int, default=2)
    one = verbs.add_parser("unpack", help="restore <work> from bundles")
    one.add_argument("bundles", type=Path, nargs="+")
    for verb in verbs.choices.values():
        verb.add_argument("--work", type=Path, default=HERE / "work")
    one = verbs.add_parser("split", help="split a file into parts")
    one.add_argument("file", type=Path)
    one.add_argument("--to", type=Path, required=True)
    one.add_argument("--megabytes", type=int, default=15)
    one = verbs.add_parser("join", help="join the parts of a file")
    one.add_argument("first", type=Path, help="the part that ends in .00")
    one.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    if options.verb == "pack":
        for bundle in pack(options.work, options.work / "bundles", options.megabytes * 2**20, options.processes):
            print(bundle, sum(file.stat().st_size for file in bundle.iterdir()), "bytes")
    elif options.verb == "unpack":
        missing = unpack(options.bundles, options.work)
        print(f"still missing: {', '.join(missing)}" if missing else f"complete in {options.work}")
    elif options.verb == "split":
        print(*split_file(options.file, options.to, options.megabytes * 2**20), sep="\n")
    else:
        join_parts(options.first, options.to)


if __name__ == "__main__":
    main()
