"""What all benchmarks share: ways timed in turn, ratios with their targets, a table, arguments."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = [
    "TABLE_HEAD",
    "Comparison",
    "Timed",
    "Way",
    "argument_parser",
    "compare",
    "main",
    "scratch_folder",
    "spoken",
    "table_row",
    "time_in_turn",
]

TABLE_HEAD = (
    "| what | measured | against | ratio: median (min to max) | target | met |\n"
    "|---|---|---|---|---|---|"
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was measured relative to a reference, in each run."""

    name: str
    measured: str
    reference: str
    ratios: tuple[float, ...]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def median(self) -> float:
        """Ratio that counts."""
        return statistics.median(self.ratios)

    @property
    def target(self) -> str:
        """What the ratio is to be, in words."""
        limits = (("≥", self.at_least), ("≤", self.at_most))
        return " ".join(f"{sign} {limit:.3g}" for sign, limit in limits if limit is not None)

    @property
    def is_met(self) -> bool:
        """Whether the median keeps within the target."""
        is_large_enough = self.at_least is None or self.median >= self.at_least
        return is_large_enough and (self.at_most is None or self.median <= self.at_most)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to do something, and how much of it is done in a call."""

    name: str
    work: Callable[[], object]
    amount: float
    unit: str = "images"


@dataclass(frozen=True)
class Timed:
    """A way and its rate in each run: amount per second."""

    way: Way
    rates: tuple[float, ...]

    @property
    def speed(self) -> str:
        """Median rate in words."""
        return f"{spoken(statistics.median(self.rates))} {self.way.unit}/s"


def spoken(number: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def time_in_turn(
    *ways: Way, n_runs: int, before_each: Callable[[], None] = lambda: None
) -> list[Timed]:
    """Time ways in turn, so that a machine that slows down slows all of them."""
    rates: list[list[float]] = [[] for _ in ways]
    for run in range(n_runs + 1):
        for way, of_way in zip(ways, rates, strict=True):
            before_each()
            started = time.perf_counter()
            way.work()
            seconds = time.perf_counter() - started
            # The first time, code is compiled and memory found
            if run > 0:
                of_way.append(way.amount / seconds)
    return [Timed(way, tuple(of_way)) for way, of_way in zip(ways, rates, strict=True)]


def compare(
    timed: Timed,
    *references: Timed,
    at_least: float | None = None,
    name: str = "",
) -> Comparison:
    """Compare a way with another, or with the slowest of several in each run."""
    slowest = [min(rates) for rates in zip(*(r.rates for r in references), strict=True)]
    named = [f"{r.way.name} ({r.speed})" for r in references]
    return Comparison(
        name=name or timed.way.name,
        measured=timed.speed,
        reference=" or ".join(named) + (", the slower" if len(named) > 1 else ""),
        ratios=tuple(rate / other for rate, other in zip(timed.rates, slowest, strict=True)),
        at_least=at_least,
    )


def table_row(c: Comparison) -> str:
    """One row of the table in Markdown."""
    low, high = min(c.ratios), max(c.ratios)
    spread = f" ({low:.3g} to {high:.3g})" if len(c.ratios) > 1 else ""
    met = ("yes" if c.is_met else "**no**") if c.target else ""
    cells = (c.name, c.measured, c.reference, f"{c.median:.3g}{spread}", c.target, met)
    return f"| {' | '.join(cells)} |"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder below the working directory, on the disk that is measured."""
    with TemporaryDirectory(dir=Path.cwd(), prefix="bench-") as name:
        yield Path(name)


def argument_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Make a parser of what all benchmarks take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=int, default=3, help="how often each thing is timed")
    parser.add_argument("--folder", type=Path, default=Path(), help="where sets and results go")
    return parser


def main(run: Callable[..., Iterable[Comparison]]) -> None:
    """Run one benchmark as the command line asks, and print its table."""
    given = argument_parser().parse_args()
    os.chdir(given.folder)
    print(TABLE_HEAD, *map(table_row, run(n_runs=given.runs)), sep="\n")
