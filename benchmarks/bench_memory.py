"""Peak memory of `convert` for a small set, one of four times its size, and a few rows of many."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path

from bench_few_rows import make_sparse_set
from children import convert_set, in_fresh_process
from measure import Comparison, main, scratch_folder, spoken
from sets import image_names, make_stack, write_star

_LIMIT_MB = 1000


def peak_MB(star: Path) -> float:
    """By how much converting a set without plots raises the peak memory of a fresh process."""
    _, grown = in_fresh_process(convert_set, star)
    shutil.rmtree(star.parent / "out")
    return grown


def run(
    n_pixels: int = 128,
    n_small: int = 4096,
    n_large: int = 16_384,
    n_stored: int = 327_680,
    n_runs: int = 3,
) -> list[Comparison]:
    """Compare what comes on top of the imports and the plan."""
    with scratch_folder() as folder:
        make_stack(folder / "stack.mrcs", n_large, n_pixels)
        small, large = folder / "small.star", folder / "large.star"
        write_star(small, image_names("stack.mrcs", range(n_small)))
        write_star(large, image_names("stack.mrcs", range(n_large)))
        few = make_sparse_set(folder, n_stored, n_large, n_pixels)
        peaks = [tuple(peak_MB(star) for star in (small, large, few)) for _ in range(n_runs)]
    of_small, of_large, of_few = zip(*peaks, strict=True)
    share = n_large / n_stored
    named = {
        f"{n_small:,} images": of_small,
        f"{n_large:,} images": of_large,
        f"{share:.0%} of {n_stored:,} images": of_few,
    }
    in_words = {name: f"{spoken(statistics.median(MB))} MB" for name, MB in named.items()}
    base, *others = named
    return [
        *(
            Comparison(
                name=f"peak memory of convert, {name}",
                measured=in_words[name],
                reference=f"{base} ({in_words[base]})",
                ratios=tuple(a / b for a, b in zip(named[name], of_small, strict=True)),
                at_most=1.1,
            )
            for name in others
        ),
        *(
            Comparison(
                name=f"peak memory of convert, {name}",
                measured=in_words[name],
                reference=f"{_LIMIT_MB:,} MB",
                ratios=tuple(MB / _LIMIT_MB for MB in values),
                at_most=1,
            )
            for name, values in named.items()
        ),
    ]


if __name__ == "__main__":
    main(run)
