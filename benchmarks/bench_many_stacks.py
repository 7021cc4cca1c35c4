"""`convert` of many small stacks, their rows shuffled, against that of one large stack."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from measure import Comparison, Way, compare, main, scratch_folder, time_in_turn
from sets import image_names, make_stack, one_stack_set, plan_of, start_alike, write_star

from cryolike import convert


def make_shuffled_set(folder: Path, n_images: int, n_pixels: int, n_stacks: int) -> Path:
    """Make equal stacks and a STAR file that names their images in any order."""
    (folder / "Particles").mkdir()
    names = []
    for i in range(n_stacks):
        stack, n_of_stack = f"Particles/stack_{i:04d}.mrcs", n_images // n_stacks
        make_stack(folder / stack, n_of_stack, n_pixels)
        names += image_names(stack, range(n_of_stack))
    shuffled = np.random.default_rng(0).permutation(len(names))
    write_star(folder / "shuffled.star", [names[i] for i in shuffled])
    return folder / "shuffled.star"


def run(
    n_pixels: int = 128, n_images: int = 10_000, n_stacks: int = 1000, n_runs: int = 3
) -> list[Comparison]:
    """Compare without plots, with the images in the system's cache and without."""
    with scratch_folder() as folder:
        many = plan_of(make_shuffled_set(folder, n_images, n_pixels, n_stacks))
        one = plan_of(one_stack_set(folder, n_images, n_pixels))
        out = folder / "out"

        def compared(where: str, *, is_cold: bool) -> Comparison:
            def prepare() -> None:
                shutil.rmtree(out, ignore_errors=True)
                start_alike([*many.image_paths, *one.image_paths], is_cold=is_cold)

            ours, other = time_in_turn(
                Way(
                    name=f"convert, {n_stacks:,} stacks, rows shuffled, images {where}",
                    work=lambda: convert(many, out),
                    amount=many.n_images,
                ),
                Way(name="convert, one stack", work=lambda: convert(one, out), amount=one.n_images),
                n_runs=n_runs,
                before_each=prepare,
            )
            return compare(ours, other, at_least=0.7)

        return [compared("in cache", is_cold=False), compared("on disk", is_cold=True)]


if __name__ == "__main__":
    main(run)
