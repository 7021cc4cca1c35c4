"""What happens to pixels before the Fourier transform: downsampling and normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from cryolike.errors import UsageError
from cryolike.physics import compiled

__all__ = [
    "DownsampleType",
    "Normalisation",
    "central_disc_contrast",
    "check_downsampling",
    "downsample",
    "indivisible_box",
    "value_span",
]

DownsampleType = Literal["mean", "max", "fourier"]
"""How pixels are merged: pooling by mean or maximum as published (it aliases, and moves the image
by (factor − 1)/2 of the original pixels), or cropping in Fourier space (it does neither)."""


def check_downsampling(box_px: int, factor: int, kind: str) -> None:
    """Refuse what cannot be done.

    Parameters
    ----------
    box_px
        Box of the images, pixels.
    factor
        Pixels merged along an axis.
    kind
        One of `DownsampleType`.

    Raises
    ------
    UsageError
        Where `kind` is unknown, or `factor` is below 1 or does not divide the box.
    """
    if kind not in get_args(DownsampleType):
        kinds = ", ".join(get_args(DownsampleType))
        msg = f"downsample_type is {kind!r}; it must be one of {kinds}."
        raise UsageError(msg)
    if factor < 1:
        msg = f"downsample_factor is {factor}; it must be at least 1."
        raise UsageError(msg)
    if message := indivisible_box(box_px, factor):
        raise UsageError(message)


def indivisible_box(box_px: int, factor: int) -> str:
    """Say which factors fit, where this one does not; else nothing."""
    if box_px % factor == 0:
        return ""
    divisors = ", ".join(str(d) for d in range(1, box_px // 2 + 1) if box_px % d == 0)
    return f"downsample_factor {factor} does not divide the box of {box_px}; these do: {divisors}"


def downsample(
    images: Float[Tensor, "n_images side side"], factor: int, kind: DownsampleType
) -> Float[Tensor, "n_images smaller smaller"]:
    """Merge factor×factor pixels into one.

    Parameters
    ----------
    images
        (n_images, N, N).
    factor
        Divides N.
    kind
        'mean', 'max' or 'fourier'.

    Returns
    -------
    Tensor
        (n_images, N/factor, N/factor), on the same scale; with 'fourier' the origin pixel
        floor(N/2) becomes the origin pixel of the smaller box.
    """
    if factor == 1:
        return images
    if kind == "fourier":
        return _crop_in_fourier_space(images, images.shape[-1] // factor)
    pool = avg_pool2d if kind == "mean" else max_pool2d
    pooled: Tensor = pool(images[:, None], factor)
    return pooled[:, 0]


def _crop_in_fourier_space(images: Tensor, smaller: int) -> Tensor:
    larger = images.shape[-1]
    start = larger // 2 - smaller // 2
    kept = slice(start, start + smaller)
    spectrum = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(images, (1, 2))), (1, 2))
    cropped = torch.fft.ifftshift(spectrum[:, kept, kept], (1, 2))
    # The real part averages the Nyquist terms of an even box with their conjugates
    result = torch.fft.fftshift(torch.fft.ifft2(cropped), (1, 2)).real
    scaled: Tensor = result * (smaller / larger) ** 2
    return scaled


@dataclass(frozen=True, kw_only=True, eq=False)
class Normalisation:
    """What makes images of zero mean and largest absolute value 1: (sign · image − mean) / largest.

    Parameters
    ----------
    sign
        +1 or −1 for each image, float64, (n_images,).
    mean, largest
        float64, (n_images,). The mean is finite only where all pixels are.
    span
        Largest minus smallest value of each image, float64, (n_images,).
    """

    sign: Float[Tensor, " n_images"]
    mean: Float[Tensor, " n_images"]
    largest: Float[Tensor, " n_images"]
    span: Float[Tensor, " n_images"]

    @classmethod
    def of_images(
        cls,
        images: Float[Tensor, "n_images side side"],
        sign: Float[Tensor, " n_images"] | None = None,
    ) -> Normalisation:
        """Look at images.

        Parameters
        ----------
        images
            On the processor; what is found for constant images, but for their span, and for those
            that are not finite means nothing.
        sign
            float64, +1 or −1 for each image; +1 where it is not given.
        """
        n_images = len(images)
        sign = torch.ones(n_images, dtype=torch.float64) if sign is None else sign
        mean, largest, span = torch.empty(3, n_images, dtype=torch.float64)
        compiled.statistics(
            images.contiguous().numpy(), *(x.numpy() for x in (mean, largest, span))
        )
        return cls(sign=sign, mean=sign * mean, largest=largest, span=span)

    @property
    def centre_and_factor(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the formula (image − centre) · factor, which is the same and quicker; float64."""
        return (self.sign * self.mean).numpy(), (self.sign / self.largest).numpy()

    def take(self, part: slice) -> Normalisation:
        """Only that of some of the images."""
        return Normalisation(**{name: values[part] for name, values in vars(self).items()})

    def apply(
        self, images: Float[Tensor, "n_images side side"]
    ) -> Float[Tensor, "n_images side side"]:
        """Normalise images, on any device, in their own precision."""
        centre, factor = (
            torch.from_numpy(x).to(images.device)[:, None, None] for x in self.centre_and_factor
        )
        # In double precision: a mean far above the contrast must not be rounded
        return ((images - centre) * factor).to(images.dtype)


def value_span(images: Float[Tensor, "n_images side side"]) -> Float[Tensor, " n_images"]:
    """Largest minus smallest value of each image; NaN where an image holds NaN."""
    low, high = torch.aminmax(images.flatten(1), dim=1)
    span: Tensor = high - low
    return span


def central_disc_contrast(
    images: Float[Tensor, "n_images side side"],
) -> Float[Tensor, " n_images"]:
    """Mean inside the central disc (radius N/4) minus mean outside the inscribed circle.

    Parameters
    ----------
    images
        (n_images, N, N).

    Returns
    -------
    Tensor
        float64, (n_images,); positive where the particle is brighter than the background.
    """
    side = images.shape[-1]
    offsets = torch.arange(side, dtype=torch.float64) - side // 2
    radius = torch.hypot(offsets[:, None], offsets[None, :])
    centre, corner = radius < side / 4, radius > side / 2
    pixels = images.to(torch.float64)
    return pixels[:, centre].mean(dim=1) - pixels[:, corner].mean(dim=1)
