"""Metrics of an evaluation (proportions with intervals, bits per byte) and their table and JSON.

Every metric has the count that it is based on. Knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Z = 1.959964  # for a 95 % interval


class Metric(Protocol):
    """One cell of the table."""

    def format(self) -> str:
        """Format for a table."""

    def to_dict(self) -> dict[str, float]:
        """Convert for JSON."""


@dataclass(frozen=True, slots=True)
class Proportion:
    """A count of hits in a total; for an estimate averaged over tasks, `hits` is the sum of the estimates."""

    hits: float
    total: int

    @classmethod
    def from_results(cls, results: Iterable[bool | float]) -> Proportion:
        """Count the results that are true, or add up the estimates."""
        values = [float(result) for result in results]
        return cls(sum(values), len(values))

    @property
    def value(self) -> float:
        """The proportion, 0 if the total is 0."""
        return self.hits / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval."""
        return compute_wilson_interval(self.hits, self.total)

    def format(self) -> str:
        """Format percentage, count and interval."""
        low, high = self.interval
        return f"{self.value:6.1%} {self.hits:g}/{self.total} ({low:.1%}-{high:.1%})"

    def to_dict(self) -> dict[str, float]:
        """Convert value, count and interval."""
        low, high = (round(bound, 4) for bound in self.interval)
        return {"share": round(self.value, 4), "count": round(self.hits, 2), "of": self.total, "low": low, "high": high}


@dataclass(frozen=True, slots=True)
class BitsPerByte:
    """The bits to encode a number of bytes of a number of files."""

    bits: float
    num_bytes: int
    num_files: int

    @property
    def value(self) -> float:
        """Bits per byte."""
        return self.bits / self.num_bytes if self.num_bytes else 0.0

    def format(self) -> str:
        """Format bits per byte and the size of the text."""
        return f"{self.value:6.3f} {self.num_bytes:,} B, {self.num_files} files"

    def to_dict(self) -> dict[str, float]:
        """Convert value and counts."""
        return {"bits_per_byte": round(self.value, 4), "bytes": self.num_bytes, "files": self.num_files}


def compute_wilson_interval(hits: float, total: int) -> tuple[float, float]:
    """Compute the 95 % Wilson score interval; (0, 1) if the total is 0."""
    if not total:
        return 0.0, 1.0
    share, spread = hits / total, Z * Z / total
    center = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / 4 / total)
    return max(0.0, center - half), min(1.0, center + half)


def estimate_pass_at_k(k: int, passed: Sequence[bool]) -> float:
    """Estimate without bias, from n >= k samples, the probability that one of k passes (Chen et al. 2021)."""
    n, c = len(passed), sum(passed)
    return 1.0 if n - c < k else 1.0 - math.prod((n - c - i) / (n - i) for i in range(k))


Table = Mapping[str, Mapping[str, Metric]]


def format_table(metrics: Table, columns: Sequence[str]) -> str:
    """Format a row per metric and a column per model, with a dash for a missing value."""
    width = max((len(name) for name in metrics), default=0)
    cells = [[row[c].format() if c in row else "     -" for c in columns] for row in metrics.values()]
    widths = [max(len(c), *(len(line[i]) for line in cells)) if cells else len(c) for i, c in enumerate(columns)]
    lines = [" " * width + "".join(f"  {c:{w}}" for c, w in zip(columns, widths, strict=True))]
    for name, line in zip(metrics, cells, strict=True):
        lines.append(f"{name:{width}}" + "".join(f"  {c:{w}}" for c, w in zip(line, widths, strict=True)))
    return "\n".join(line.rstrip() for line in lines)


def table_to_dict(metrics: Table) -> dict[str, dict[str, dict[str, float]]]:
    """Convert the table for JSON."""
    return {name: {column: metric.to_dict() for column, metric in row.items()} for name, row in metrics.items()}
