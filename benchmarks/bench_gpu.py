"""The transform and `convert` on a GPU, images and results of the transform in its memory."""

from __future__ import annotations

import shutil

import torch
from measure import Comparison, Timed, Way, compare, main, scratch_folder, spoken, time_in_turn
from sets import PIXEL_SIZE_A, one_stack_set, plan_of, start_alike

from cryolike import convert
from cryolike.descriptor import ImageDescriptor
from cryolike.physics.polar import PolarTransform

_TARGET = 200_000
"""Images of 128 × 128 pixels a second on an H200."""


def run(
    n_pixels: int = 128,
    n_images: int = 16_384,
    n_converted: int = 10_000,
    n_copied: int = 2**30,
    n_runs: int = 3,
    device: str = "cuda",
) -> list[Comparison]:
    """Compare with the target, with a copy of `n_copied` bytes on the device, and convert."""
    if device == "cuda" and not torch.cuda.is_available():
        print("The GPU is not measured: PyTorch finds none.")
        return []
    card = torch.cuda.get_device_name() if device == "cuda" else device
    descriptor = ImageDescriptor.from_individual_values(n_pixels, PIXEL_SIZE_A)
    transform, polar = PolarTransform.of_descriptor(descriptor, device), descriptor.polar_grid
    images = torch.randn((n_images, n_pixels, n_pixels), device=device)
    shape = (n_images, polar.n_shells, polar.n_inplanes)
    out = torch.zeros(shape, dtype=transform.complex_dtype, device=device)
    source = torch.zeros(n_copied, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)

    def synchronise() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def transform_all() -> None:
        transform(images, out=out)
        synchronise()

    def copy() -> None:
        target.copy_(source)
        synchronise()

    transforming, copying = time_in_turn(
        Way(name=f"transform alone on {card}", work=transform_all, amount=n_images),
        # Each byte is read and written
        Way(name="copying", work=copy, amount=2 * n_copied / 1e9, unit="GB"),
        n_runs=n_runs,
        before_each=synchronise,
    )
    image_GB = (images.nbytes + out.nbytes) / n_images / 1e9
    moving = Timed(
        Way(
            name=f"{transforming.way.name}: images read and polar images written",
            work=transform_all,
            amount=n_images * image_GB,
            unit="GB",
        ),
        tuple(rate * image_GB for rate in transforming.rates),
    )
    with scratch_folder() as folder:
        plan = plan_of(one_stack_set(folder, n_converted, n_pixels))

        def prepare() -> None:
            shutil.rmtree(folder / "out", ignore_errors=True)
            start_alike(plan.image_paths, is_cold=False)

        converting, again = time_in_turn(
            Way(
                name=f"convert on {card}, one stack, images in cache",
                work=lambda: convert(plan, folder / "out", device=device),
                amount=n_converted,
            ),
            transforming.way,
            n_runs=n_runs,
            before_each=prepare,
        )
    return [
        Comparison(
            name=transforming.way.name,
            measured=transforming.speed,
            reference=f"{spoken(_TARGET)} images/s, meant for an H200",
            ratios=tuple(rate / _TARGET for rate in transforming.rates),
            at_least=1,
        ),
        compare(moving, copying),
        compare(converting, again),
    ]


if __name__ == "__main__":
    main(run)
