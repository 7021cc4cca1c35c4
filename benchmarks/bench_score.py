"""Scoring against the straightforward way, modes of the search against each other, and memory.

A pair is an image, a view and a displacement, at all in-plane angles. The straightforward way is
timed with some of the images and views: its rate does not depend on how many there are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from children import in_fresh_process, score_simulated
from measure import (
    TABLE_HEAD,
    Comparison,
    Way,
    argument_parser,
    compare,
    scratch_folder,
    spoken,
    table_row,
    time_in_turn,
)
from scoring_problem import ScoringProblem
from straightforward import Found, Straightforward

from cryolike.scoring.search import PoseSearch

SIZES = (64, 96, 128)
"""Boxes, in pixels, that are measured unless others are asked for."""

_TARGETS = {"straightforward": 15.0, "fast": 20.0}
"""Ratios to reach: of the exact search to the straightforward way, of other modes to the exact."""

_TARGET_SIZE = 96
"""Pixels for which there is a target of the fast search."""

_BATCHES = (1, 8, 32)
"""Views at once that the straightforward way is tried with."""


def run(
    sizes: Sequence[int] = SIZES,
    n_images: int = 64,
    n_runs: int = 3,
    *,
    modes: Sequence[str] = ("exact", "fast"),
    spacing_rad: float | None = None,
    n_displacements: int = 9,
    n_straightforward: tuple[int, int] = (4, 192),
    n_in_memory: int = 128,
    budget_bytes: float = 1e9,
    has_targets: bool = True,
) -> list[Comparison]:
    """Compare on default grids in single precision; the first of the modes is the exact one.

    The straightforward way gets as many of the images and views as `n_straightforward` says.
    """
    options = {"spacing_rad": spacing_rad, "n_displacements": n_displacements}
    comparisons = []
    for n_pixels in sizes:
        problem = ScoringProblem.simulated(n_pixels, n_images, **options)
        few = problem.part(*n_straightforward)
        check_results(few)
        comparisons += _timed(problem, few, n_pixels, modes, n_runs, has_targets=has_targets)
    settings = {"n_pixels": sizes[0], "n_images": n_in_memory, "budget_bytes": budget_bytes}
    comparisons.append(_memory(settings | options, n_runs))
    return comparisons


def _timed(
    problem: ScoringProblem,
    few: ScoringProblem,
    n_pixels: int,
    modes: Sequence[str],
    n_runs: int,
    *,
    has_targets: bool,
) -> Iterator[Comparison]:
    """Compare rates for one size of images."""
    searches = [_searching(problem, mode, n_pixels) for mode in modes]
    ways = [
        _straightforward(few, "images", has_likelihoods=True),
        _straightforward(few, "images", has_likelihoods=False),
        _straightforward(few, "templates", has_likelihoods=False),
    ]
    timed = time_in_turn(*searches, *ways, n_runs=n_runs)
    exact, *others = timed[: len(modes)]
    # The target is for the same results; the other rows do less, or something a little different
    same, *partial = timed[len(modes) :]
    yield compare(exact, same, at_least=_TARGETS["straightforward"] if has_targets else None)
    for straightforward in partial:
        yield compare(exact, straightforward)
    is_target_size = has_targets and n_pixels == _TARGET_SIZE
    for other in others:
        yield compare(other, exact, at_least=_TARGETS["fast"] if is_target_size else None)


def _search(problem: ScoringProblem, mode: Any) -> PoseSearch:
    return PoseSearch(problem.templates, problem.displacements, mode=mode)


def _searching(problem: ScoringProblem, mode: str, n_pixels: int) -> Way:
    search = _search(problem, mode)
    return Way(
        name=f"{mode} search, {n_pixels} pixels",
        work=lambda: search.score(problem.images, problem.ctf),
        amount=problem.n_pairs,
        unit="pairs",
    )


def _straightforward(problem: ScoringProblem, displaced: str, *, has_likelihoods: bool) -> Way:
    way = _best_batches(problem, displaced)
    found = "poses and likelihoods" if has_likelihoods else "only poses"
    return Way(
        name=f"straightforward, {displaced} displaced, {found}",
        work=lambda: way(problem.images, problem.ctf, has_likelihoods=has_likelihoods),
        amount=problem.n_pairs,
        unit="pairs",
    )


def _best_batches(problem: ScoringProblem, displaced: Any) -> Straightforward:
    """Set up the straightforward way with as many views at once as are quickest."""
    ways = [
        Straightforward(problem.templates, problem.displacements, displaced, n_views_at_once)
        for n_views_at_once in _BATCHES
    ]
    timed = time_in_turn(
        *(
            Way(name="", work=lambda way=way: way(problem.images, problem.ctf), amount=1)
            for way in ways
        ),
        n_runs=1,
    )
    return ways[int(np.argmax([of_way.rates[0] for of_way in timed]))]


def check_results(problem: ScoringProblem) -> None:
    """Check that the straightforward way and the exact search find the same.

    Where templates are displaced their displacements turn with them, so that poses agree at the
    first in-plane angle only.
    """
    templates, displacements = problem.templates, problem.displacements
    ways = [Straightforward(templates, displacements, which) for which in ("images", "templates")]
    found: Found = ways[0](problem.images, problem.ctf, has_likelihoods=True)
    scores = _search(problem, "exact").score(problem.images, problem.ctf)
    np.testing.assert_allclose(found.cross_correlation, scores.cross_correlation, rtol=1e-5)
    np.testing.assert_allclose(
        found.log_likelihood_integrated, scores.log_likelihood_integrated, rtol=1e-5
    )
    for name in ("view", "displacement", "inplane"):
        np.testing.assert_array_equal(getattr(found, name), getattr(scores, name))
    some = slice(0, 2)
    one, other = (
        way.products(way.image_series(problem.images * problem.ctf), some)[0] for way in ways
    )
    np.testing.assert_allclose(one, other, atol=1e-5 * float(one.abs().max()))


def _memory(settings: dict[str, Any], n_runs: int) -> Comparison:
    """Compare by how much scoring raises the memory of a fresh process with the budget."""
    with scratch_folder() as folder:
        file = folder / "settings.json"
        file.write_text(json.dumps(settings), encoding="utf-8")
        peaks_MB = [in_fresh_process(score_simulated, file)[1] for _ in range(n_runs)]
    budget_MB = settings["budget_bytes"] / 1e6
    return Comparison(
        name=f"peak memory of scoring {settings['n_images']} images, {settings['n_pixels']} pixels",
        measured=f"{spoken(sorted(peaks_MB)[len(peaks_MB) // 2])} MB",
        reference=f"the budget, {spoken(budget_MB)} MB",
        ratios=tuple(MB / budget_MB for MB in peaks_MB),
        at_most=1,
    )


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="boxes in pixels")
    given = parser.parse_args()
    os.chdir(given.folder)
    print(TABLE_HEAD, *map(table_row, run(given.sizes, n_runs=given.runs)), sep="\n")
