"""Downsampling, normalisation, and what counts as blank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryolike.errors import UsageError
from cryolike.physics import compiled
from cryolike.physics.preprocess import (
    Normalisation,
    central_disc_contrast,
    check_downsampling,
    downsample,
    value_span,
)


def noise(n_images: int, side: int, seed: int = 0) -> torch.Tensor:
    """Images of noise in float64."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n_images, side, side)))


@pytest.mark.parametrize("kind", ["mean", "max"])
@pytest.mark.parametrize(("side", "factor"), [(12, 2), (12, 3), (9, 3), (8, 8)])
def test_pooling(kind: Any, side: int, factor: int) -> None:
    """Each new pixel is the mean or maximum of its block."""
    images = noise(2, side)
    result = downsample(images, factor, kind).numpy()
    small = side // factor
    assert result.shape == (2, small, small)
    pool = np.mean if kind == "mean" else np.max
    for y in range(small):
        for x in range(small):
            block = images.numpy()[:, y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
            np.testing.assert_allclose(result[:, y, x], pool(block, axis=(1, 2)), rtol=1e-13)


@pytest.mark.parametrize(
    ("side", "factor"), [(12, 2), (12, 3), (12, 4), (16, 2), (15, 3), (15, 5), (9, 3), (10, 2)]
)
def test_fourier_cropping_keeps_low_frequencies(side: int, factor: int) -> None:
    """The discrete spectrum about the origin pixel is that of the original, below Nyquist."""
    images = noise(3, side).numpy()
    result = downsample(torch.from_numpy(images), factor, "fourier").numpy()
    small = side // factor
    assert result.shape == (3, small, small)

    def coefficients(pixels: np.ndarray) -> np.ndarray:
        n = pixels.shape[-1]
        offsets = np.arange(n) - n // 2
        frequencies = np.arange(-((small - 1) // 2), (small - 1) // 2 + 1)
        wave = np.exp(-2j * np.pi * np.outer(frequencies, offsets) / n)
        return np.asarray(np.einsum("ay,nyx,bx->nab", wave, pixels, wave) / n**2)

    np.testing.assert_allclose(coefficients(result), coefficients(images), atol=1e-13)


@pytest.mark.parametrize(("side", "factor"), [(12, 2), (15, 3), (12, 4), (10, 2)])
def test_fourier_cropping_keeps_the_origin(side: int, factor: int) -> None:
    """A smooth spot on an image's origin pixel stays on that of the smaller one."""
    offsets = np.arange(side) - side // 2
    wide = np.exp(-(offsets**2) / (2 * (1.2 * factor) ** 2))
    spot = torch.from_numpy(np.outer(wide, wide)[None])
    result = downsample(spot, factor, "fourier")[0]
    small = side // factor
    assert divmod(int(result.argmax()), small) == (small // 2, small // 2)
    assert float(result.max()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("kind", ["mean", "max", "fourier"])
def test_constant_image_stays_constant(kind: Any) -> None:
    """All ways keep the scale of pixel values."""
    result = downsample(torch.full((1, 12, 12), 2.5, dtype=torch.float64), 3, kind)
    np.testing.assert_allclose(result.numpy(), 2.5, rtol=1e-14)


@pytest.mark.parametrize("kind", ["mean", "max", "fourier"])
def test_factor_one_changes_nothing(kind: Any) -> None:
    """Bit for bit."""
    images = noise(2, 7)
    assert torch.equal(downsample(images, 1, kind), images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["mean", "max", "fourier"])
def test_precision_stays(kind: Any, dtype: torch.dtype) -> None:
    """Neither widened nor narrowed."""
    assert downsample(noise(1, 8).to(dtype), 2, kind).dtype == dtype


@pytest.mark.parametrize(
    ("box_px", "factor", "kind", "words"),
    [
        (12, 5, "mean", "1, 2, 3, 4, 6"),
        (12, 0, "mean", "at least 1"),
        (12, -2, "mean", "at least 1"),
        (12, 2, "median", "mean, max, fourier"),
        (13, 2, "fourier", "these do: 1"),
    ],
)
def test_what_cannot_be_done_is_refused(box_px: int, factor: int, kind: str, words: str) -> None:
    """The message says what can."""
    with pytest.raises(UsageError, match=words):
        check_downsampling(box_px, factor, kind)


def applied(normalisation: Normalisation, images: torch.Tensor) -> torch.Tensor:
    """Normalise as on any device."""
    return normalisation.apply(images)


def padded(normalisation: Normalisation, images: torch.Tensor) -> torch.Tensor:
    """Normalise as on the way to the transform on a processor, with nothing to pad."""
    result = torch.full_like(images, torch.nan)
    compiled.pad(
        images.numpy(),
        *normalisation.centre_and_factor,
        torch.ones_like(images[0]).numpy(),
        result.numpy(),
    )
    centred: torch.Tensor = torch.fft.fftshift(result, dim=(1, 2))
    return centred


@given(
    side=st.integers(2, 9),
    offset=st.floats(-1e5, 1e5),
    scale=st.floats(1e-2, 1e3),
    seed=st.integers(0, 2**16),
    is_double=st.booleans(),
    normalise=st.sampled_from([applied, padded]),
)
def test_normalised_images_and_what_was_taken_away(
    side: int,
    offset: float,
    scale: float,
    seed: int,
    is_double: bool,
    normalise: Callable[[Normalisation, torch.Tensor], torch.Tensor],
) -> None:
    """Mean 0, largest absolute value 1, and the original comes back."""
    dtype = torch.float64 if is_double else torch.float32
    epsilon = torch.finfo(dtype).eps
    images = (noise(2, side, seed) * scale + offset).to(dtype)
    found = Normalisation.of_images(images)
    normalised = normalise(found, images)
    exact = images.to(torch.float64)
    assert normalised.dtype == dtype
    assert found.mean.dtype == found.largest.dtype == torch.float64
    mean = exact.mean(dim=(1, 2))
    largest = (exact - mean[:, None, None]).abs().amax(dim=(1, 2))
    rounding = 4 * torch.finfo(torch.float64).eps * abs(offset)
    torch.testing.assert_close(found.mean, mean, rtol=1e-14, atol=rounding)
    # Pixels are rounded when they are stored, but not by the mean once more
    allowed = 8 * epsilon + float((rounding / largest).max())
    torch.testing.assert_close(found.largest, largest, rtol=allowed, atol=0)
    assert float((normalised.abs().amax(dim=(1, 2)) - 1).abs().max()) <= epsilon
    assert float(normalised.to(torch.float64).mean(dim=(1, 2)).abs().max()) <= allowed
    recovered = (
        normalised.to(torch.float64) * found.largest[:, None, None] + found.mean[:, None, None]
    )
    error = (recovered - exact).abs().amax(dim=(1, 2)) / largest
    assert float(error.max()) <= allowed


def test_span_of_normalised_images() -> None:
    """Zero for constant images only, whatever the constant."""
    images = noise(5, 4).float()
    images[1], images[2], images[3] = 0, -7.3, 5
    images[3, 2, 2] = float(np.nextafter(np.float32(5), np.float32(6)))
    span = Normalisation.of_images(images).span
    assert (span == 0).tolist() == [False, True, True, False, False]
    torch.testing.assert_close(span, value_span(images).double(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_mean_tells_of_values_that_are_not_finite(value: float, dtype: torch.dtype) -> None:
    """Wherever the pixel lies, its image has no finite mean, and the others have theirs."""
    side = 6
    images = noise(side**2 + 1, side).to(dtype)
    for i in range(side**2):
        images[i].view(-1)[i] = value
    result = Normalisation.of_images(images)
    assert torch.isfinite(result.mean).tolist() == [False] * side**2 + [True]


@pytest.mark.parametrize("normalise", [applied, padded])
def test_sign_is_applied_first(
    normalise: Callable[[Normalisation, torch.Tensor], torch.Tensor],
) -> None:
    """An image times −1 is the image of opposite pixels."""
    images = noise(3, 5)
    sign = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    turned = images * sign[:, None, None]
    found, expected = Normalisation.of_images(images, sign), Normalisation.of_images(turned)
    for name in ("mean", "largest", "span"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    torch.testing.assert_close(normalise(found, images), normalise(expected, turned))


def test_parts_of_a_normalisation() -> None:
    """Some of the images are normalised as all of them are."""
    images, sign = noise(5, 4), torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    whole = Normalisation.of_images(images, sign)
    part = slice(1, 4)
    assert torch.equal(whole.take(part).apply(images[part]), whole.apply(images)[part])


def test_span_tells_of_values_that_are_not_finite() -> None:
    """It is finite for finite images only."""
    images = torch.ones(4, 3, 3)
    images[0, 1, 1] = 3
    images[1, 0, 2], images[2, 2, 2], images[3, 0, 0] = np.nan, np.inf, -np.inf
    assert float(value_span(images)[0]) == 2
    assert torch.isfinite(value_span(images)).tolist() == [True, False, False, False]


@pytest.mark.parametrize("side", [16, 17])
def test_contrast_of_the_central_disc(side: int) -> None:
    """Height of a disc of radius N/4 above the corners; what is between does not count."""
    offsets = torch.arange(side) - side // 2
    radius = torch.hypot(offsets[:, None].double(), offsets[None, :].double())
    image = torch.where(radius < side / 4, 3.0, torch.where(radius > side / 2, 1.0, 99.0))
    both = torch.stack([image, -image])
    assert central_disc_contrast(both).tolist() == pytest.approx([2, -2])
