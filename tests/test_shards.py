"""Packed data is restored byte for byte, from bundles in any order, or not at all."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from training import shards


def make_work_folder(folder: Path) -> dict[str, bytes]:
    """Fill a work folder with files of unusual text; return their bytes."""
    rng = random.Random(3)
    for name in shards.FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        texts = ["".join(rng.choices("ab\n\r\u2028é😀\0", k=50)) for _ in range(40)]
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
        (folder / name).write_bytes("\n".join([*lines, "last line without an end"]).encode())
    return {name: (folder / name).read_bytes() for name in shards.FILES}


def test_bundles_are_small_and_restore_files_in_any_order(tmp_path: Path) -> None:
    expected = make_work_folder(tmp_path / "here")
    bundles = shards.pack(tmp_path / "here", tmp_path / "bundles", max_bytes=2500, processes=1, raw_bytes=1500)
    assert len(bundles) > 2
    for bundle in bundles:
        assert sum(file.stat().st_size for file in bundle.glob("*.xz")) <= 2500
    for bundle in reversed(bundles[1:]):
        assert shards.unpack([bundle], tmp_path / "there"), "complete without the first bundle"
        assert not (tmp_path / "there" / shards.FILES[0]).exists()
    assert shards.unpack([bundles[0]], tmp_path / "there") == []
    assert {name: (tmp_path / "there" / name).read_bytes() for name in shards.FILES} == expected


def test_damaged_shard_is_refused(tmp_path: Path) -> None:
    make_work_folder(tmp_path / "here")
    (bundle,) = shards.pack(tmp_path / "here", tmp_path / "bundles", max_bytes=10**6, processes=1)
    shard = next(bundle.glob("*.xz"))
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(ValueError, match="damaged"):
        shards.unpack([bundle], tmp_path / "there")
    with pytest.raises(ValueError, match="does not fit"):
        shards.pack(tmp_path / "here", tmp_path / "bundles", max_bytes=10, processes=1)


def test_file_is_split_and_joined(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(1234)
    (tmp_path / "model.safetensors").write_bytes(content)
    parts = shards.split_file(tmp_path / "model.safetensors", tmp_path / "parts", 100)
    assert len(parts) == 13 and all(part.stat().st_size <= 100 for part in parts)
    shards.join_parts(parts[0], tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == content
