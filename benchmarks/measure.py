"""What all benchmarks share: pairs of timings taken in turn, and a table of their ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = ["Comparison", "compare", "markdown_table"]


@dataclass(frozen=True)
class Comparison:
    """Speed of one way relative to another, both measured in the same run."""

    name: str
    reference: str
    rate: float
    ratios: tuple[float, ...]


def compare(
    name: str,
    way: Callable[[], object],
    reference_name: str,
    reference: Callable[[], object],
    *,
    n_items: int,
    n_reference_items: int,
    n_runs: int = 3,
) -> Comparison:
    """Time two ways in turn, so that a machine that slows down slows both."""
    way(), reference()
    rates, ratios = [], []
    for _ in range(n_runs):
        seconds, seconds_reference = _seconds(way), _seconds(reference)
        rates.append(n_items / seconds)
        ratios.append(rates[-1] / (n_reference_items / seconds_reference))
    return Comparison(name, reference_name, statistics.median(rates), tuple(ratios))


def markdown_table(comparisons: Iterable[Comparison]) -> str:
    """One row a comparison, with the median ratio and its range."""
    rows = [
        "| what | images/s | against | ratio: median (min to max) |",
        "|---|---|---|---|",
    ]
    rows += [
        f"| {c.name} | {c.rate:,.0f} | {c.reference} | {statistics.median(c.ratios):.2f} "
        f"({min(c.ratios):.2f} to {max(c.ratios):.2f}) |"
        for c in comparisons
    ]
    return "\n".join(rows)


def _seconds(way: Callable[[], object]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started
