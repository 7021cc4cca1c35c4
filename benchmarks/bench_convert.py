"""`convert` of one stack against what it cannot do without: the transform, and writing."""

from __future__ import annotations

import shutil

import references
from measure import Comparison, Way, compare, main, scratch_folder, time_in_turn
from sets import one_stack_set, plan_of, start_alike

from cryolike import convert


def run(n_pixels: int = 128, n_images: int = 10_000, n_runs: int = 3) -> list[Comparison]:
    """Compare without plots, with the images in the system's cache and without."""
    with scratch_folder() as folder:
        plan = plan_of(one_stack_set(folder, n_images, n_pixels))
        out, plain = folder / "out", folder / "plain"
        convert(plan, out)
        sizes = references.sizes_of_files(out)

        def compared(where: str, *, is_cold: bool) -> Comparison:
            def prepare() -> None:
                for results in (out, plain):
                    shutil.rmtree(results, ignore_errors=True)
                start_alike(plan.image_paths, is_cold=is_cold)

            name = f"convert, one stack, images {where}"
            ours, *others = time_in_turn(
                Way(name=name, work=lambda: convert(plan, out), amount=n_images),
                references.transform_alone(plan.descriptor, n_images),
                references.plain_write(plain, sizes, n_images),
                n_runs=n_runs,
                before_each=prepare,
            )
            return compare(ours, *others, at_least=0.6)

        return [compared("in cache", is_cold=False), compared("on disk", is_cold=True)]


if __name__ == "__main__":
    main(run)
