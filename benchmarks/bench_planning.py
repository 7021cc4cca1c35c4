"""Reading and planning a large set against reading its STAR file with the package starfile."""

from __future__ import annotations

import statistics
from pathlib import Path

from children import in_fresh_process, plan_set, read_with_cryolike, read_with_starfile
from measure import Comparison, main, scratch_folder, spoken
from sets import image_names, make_stack, write_star


def make_large_set(folder: Path, n_rows: int, n_stacks: int, n_pixels: int) -> Path:
    """Make stacks that are holes but for their headers, and a row for each image."""
    (folder / "Particles").mkdir()
    names = []
    for i in range(n_stacks):
        stack, n_of_stack = f"Particles/stack_{i:04d}.mrcs", n_rows // n_stacks
        make_stack(folder / stack, n_of_stack, n_pixels, filled=[])
        names += image_names(stack, range(n_of_stack))
    write_star(folder / "particles.star", names)
    return folder / "particles.star"


def run(
    n_rows: int = 1_000_000, n_stacks: int = 5000, n_pixels: int = 128, n_runs: int = 3
) -> list[Comparison]:
    """Compare time and memory, each in fresh processes and beyond their imports."""
    ways = (read_with_starfile, plan_set, read_with_cryolike)
    with scratch_folder() as folder:
        star = make_large_set(folder, n_rows, n_stacks, n_pixels)
        runs = [[in_fresh_process(way, star) for way in ways] for _ in range(n_runs)]
    # of each way: the seconds of all runs, and the MB
    theirs, *ours = [list(zip(*of_way, strict=True)) for of_way in zip(*runs, strict=True)]
    rows = f"STAR file of {n_rows:,} rows, {n_stacks:,} stacks"
    named = (f"reading and planning, {rows}", f"reading alone, {rows}")
    quantities = (("time", "s", 1.5), ("memory", "MB", 2.0))
    return [
        Comparison(
            name=f"{name}: {quantity}",
            measured=f"{spoken(statistics.median(of_way[i]))} {unit}",
            reference=f"starfile.read ({spoken(statistics.median(theirs[i]))} {unit})",
            ratios=tuple(a / b for a, b in zip(of_way[i], theirs[i], strict=True)),
            at_most=limit if is_target else None,
        )
        for name, of_way, is_target in zip(named, ours, (True, False), strict=True)
        for i, (quantity, unit, limit) in enumerate(quantities)
    ]


if __name__ == "__main__":
    main(run)
