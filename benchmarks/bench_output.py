"""Bytes that a conversion leaves against those of the polar images themselves."""

from __future__ import annotations

from measure import Comparison, main, scratch_folder
from references import sizes_of_files
from sets import one_stack_set, plan_of

from cryolike import convert


def run(n_pixels: int = 128, n_images: int = 1024, n_runs: int = 3) -> list[Comparison]:
    """Compare for one stack without plots."""
    of_tensor, of_all = [], []
    with scratch_folder() as folder:
        plan = plan_of(one_stack_set(folder, n_images, n_pixels))
        n_bytes = n_images * plan.descriptor.polar_image_bytes
        for _ in range(n_runs):
            convert(plan, folder / "out", overwrite=True)
            (tensor,) = (folder / "out").rglob("*.pt")
            of_tensor.append(tensor.stat().st_size)
            of_all.append(sum(sizes_of_files(folder / "out")))
    return [
        Comparison(
            name=f"output of convert, {n_images:,} images in one stack: {what}",
            measured=f"{sizes[0] / 1e6:,.3f} MB",
            reference=f"their values ({n_bytes / 1e6:,.3f} MB)",
            ratios=tuple(size / n_bytes for size in sizes),
            at_most=1.01,
        )
        for what, sizes in (("the tensor", of_tensor), ("all files", of_all))
    ]


if __name__ == "__main__":
    main(run)
