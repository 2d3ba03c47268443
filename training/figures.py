"""Figures of an evaluation: a share with its interval, bits over bytes, and the table and JSON they are shown in.

Every figure carries the count it rests on. Knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Z = 1.959964  # 95 %


class Metric(Protocol):
    """One cell of the table."""

    def format(self) -> str:
        """For reading."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""


@dataclass(frozen=True, slots=True)
class Proportion:
    """How many of how many; of an estimate averaged over tasks, `hits` is the sum of the estimates."""

    hits: float
    total: int

    @classmethod
    def from_results(cls, results: Iterable[bool | float]) -> Proportion:
        """The share of results that are true, or their mean."""
        values = [float(result) for result in results]
        return cls(sum(values), len(values))

    @property
    def value(self) -> float:
        """Between 0 and 1; of nothing it is 0."""
        return self.hits / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return compute_wilson_interval(self.hits, self.total)

    def format(self) -> str:
        """Percent, count and interval."""
        low, high = self.interval
        return f"{self.value:6.1%} {self.hits:g}/{self.total} ({low:.1%}-{high:.1%})"

    def to_dict(self) -> dict[str, Any]:
        """Value, count and interval."""
        low, high = (round(bound, 4) for bound in self.interval)
        return {"share": round(self.value, 4), "count": round(self.hits, 2), "of": self.total, "low": low, "high": high}


@dataclass(frozen=True, slots=True)
class BitsPerByte:
    """Bits spent on a number of bytes of a number of files."""

    bits: float
    num_bytes: int
    num_files: int

    @property
    def value(self) -> float:
        """Bits per byte."""
        return self.bits / self.num_bytes if self.num_bytes else 0.0

    def format(self) -> str:
        """Bits per byte, and over how much."""
        return f"{self.value:6.3f} {self.num_bytes:,} B, {self.num_files} files"

    def to_dict(self) -> dict[str, Any]:
        """Value and counts."""
        return {"bits_per_byte": round(self.value, 4), "bytes": self.num_bytes, "files": self.num_files}


def compute_wilson_interval(hits: float, total: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score; everything where there is nothing."""
    if not total:
        return 0.0, 1.0
    share, spread = hits / total, Z * Z / total
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / 4 / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def estimate_pass_at_k(k: int, passed: Sequence[bool]) -> float:
    """The chance that one of k samples passes, unbiased, from n >= k of them (Chen et al. 2021)."""
    n, c = len(passed), sum(passed)
    return 1.0 if n - c < k else 1.0 - math.prod((n - c - i) / (n - i) for i in range(k))


Table = Mapping[str, Mapping[str, Metric]]


def format_table(figures: Table, columns: Sequence[str]) -> str:
    """A line per measure, a column per model; a dash where it was not measured."""
    width = max((len(name) for name in figures), default=0)
    cells = [[row[c].format() if c in row else "     -" for c in columns] for row in figures.values()]
    widths = [max(len(c), *(len(line[i]) for line in cells)) if cells else len(c) for i, c in enumerate(columns)]
    lines = [" " * width + "".join(f"  {c:{w}}" for c, w in zip(columns, widths, strict=True))]
    for name, line in zip(figures, cells, strict=True):
        lines.append(f"{name:{width}}" + "".join(f"  {c:{w}}" for c, w in zip(line, widths, strict=True)))
    return "\n".join(line.rstrip() for line in lines)


def table_to_dict(figures: Table) -> dict[str, dict[str, Any]]:
    """The table for JSON."""
    return {name: {column: figure.to_dict() for column, figure in row.items()} for name, row in figures.items()}
