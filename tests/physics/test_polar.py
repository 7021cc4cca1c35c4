"""The polar transform against direct sums, finufft and symmetries."""

from __future__ import annotations

import pickle

import finufft
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryolike.descriptor import ImageDescriptor, Precision
from cryolike.errors import UsageError
from cryolike.grids import CartesianGrid2D, PolarGrid
from cryolike.physics.polar import PolarTransform, _OnDevice
from cryolike.physics.preprocess import Normalisation

BOUND = {"single": 2e-6, "double": 1e-11}


def make_transform(
    n: int, precision: str = "double", resolution_factor: float = 1.0, n_inplanes: int | None = None
) -> PolarTransform:
    """Transform on the default grid of an N×N box."""
    return PolarTransform.of_descriptor(
        ImageDescriptor.from_individual_values(
            n, 1.5, precision, resolution_factor, n_inplanes=n_inplanes
        )
    )


def random_images(transform: PolarTransform, n_images: int = 3, seed: int = 0) -> torch.Tensor:
    """White noise with a mean."""
    n = transform.pixels.side_px
    pixels = np.random.default_rng(seed).standard_normal((n_images, n, n)) + 0.3
    return torch.from_numpy(pixels).to(transform.real_dtype)


def direct_sum(image: np.ndarray, polar: PolarGrid) -> np.ndarray:
    """F(k, θ) = (4π/N) Σ I[y, x] exp(−2πi (2k/N)(x cos θ + y sin θ)), term by term."""
    n = image.shape[0]
    offsets = np.arange(n) - n // 2
    result = np.empty((polar.n_shells, polar.n_inplanes), dtype=complex)
    for i, k in enumerate(polar.radius_shells):
        for j, theta in enumerate(polar.theta_shell):
            along_x = np.exp(-4j * np.pi * k / n * offsets * np.cos(theta))
            along_y = np.exp(-4j * np.pi * k / n * offsets * np.sin(theta))
            result[i, j] = 4 * np.pi / n * (along_y @ image.astype(float) @ along_x)
    return result


def relative_error(found: torch.Tensor, expected: np.ndarray) -> float:
    """Relative L2 distance."""
    return float(np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("n", [2, 3, 5, 16, 17, 33, 48])
def test_equals_the_direct_sum(n: int, precision: str) -> None:
    """Each image is the sum over its pixels, for odd and even boxes."""
    transform = make_transform(n, precision)
    images = random_images(transform)
    found = transform(images)
    for image, polar_image in zip(images.numpy(), found, strict=True):
        expected = direct_sum(image, transform.polar)
        assert relative_error(polar_image, expected) < BOUND[precision]


@pytest.mark.parametrize("n_inplanes", [1, 7, 10, 31])
def test_any_number_of_angles(n_inplanes: int) -> None:
    """Odd numbers of angles, whose opposites are not on the grid, are right as well."""
    transform = make_transform(12, n_inplanes=n_inplanes)
    images = random_images(transform, 1)
    expected = direct_sum(images[0].numpy(), transform.polar)
    assert relative_error(transform(images)[0], expected) < BOUND["double"]


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize(("n", "resolution_factor"), [(128, 1.0), (127, 1.0), (100, 0.6)])
def test_equals_finufft(n: int, resolution_factor: float, precision: str) -> None:
    """An independent non-uniform FFT agrees at sizes too large for direct sums."""
    transform = make_transform(n, precision, resolution_factor)
    image = random_images(transform, 1, seed=n)
    frequency = 4 * np.pi / n * transform.polar.radius_shells[:, None]
    expected = finufft.nufft2d2(
        (frequency * np.sin(transform.polar.theta_shell)).ravel(),
        (frequency * np.cos(transform.polar.theta_shell)).ravel(),
        image[0].numpy().astype(complex),
        isign=-1,
        eps=1e-14,
    ).reshape(transform.polar.n_shells, -1)
    assert relative_error(transform(image)[0], 4 * np.pi / n * expected) < BOUND[precision]


@pytest.mark.parametrize("n", [24, 25])
def test_opposite_angles_are_conjugate(n: int) -> None:
    """Images are real, so F(k, θ + π) is the conjugate of F(k, θ)."""
    transform = make_transform(n)
    polar_images = transform(random_images(transform))
    opposite = polar_images.roll(transform.polar.n_inplanes // 2, dims=-1)
    torch.testing.assert_close(opposite, polar_images.conj())


def test_quarter_turn_is_a_roll() -> None:
    """Turning an odd box by 90° from +x towards +y moves the angles by a quarter."""
    transform = make_transform(25, n_inplanes=48)
    images = random_images(transform)
    # rot90 over (x, y) takes +x to +y: new[y, x] = old[-x, y]
    turned = torch.rot90(images, k=1, dims=(2, 1))
    rolled = transform(images).roll(transform.polar.n_inplanes // 4, dims=-1)
    torch.testing.assert_close(transform(turned), rolled)


@given(
    n=st.integers(8, 21),
    dx=st.integers(-4, 4),
    dy=st.integers(-4, 4),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=25)
def test_shift_is_a_phase(n: int, dx: int, dy: int, seed: int) -> None:
    """Moving an object by whole pixels multiplies F by exp(−2πi (2k/N)(dx cos θ + dy sin θ))."""
    transform = make_transform(n)
    images = torch.zeros((1, n, n), dtype=torch.float64)
    middle = slice(n // 2 - 2, n // 2 + 2)
    images[:, middle, middle] = torch.from_numpy(
        np.random.default_rng(seed).standard_normal((1, 4, 4))
    )
    if n // 2 + 2 + max(dx, dy, -dx, -dy) > n or n // 2 - 2 - max(dx, dy, -dx, -dy) < 0:
        dx = dy = 1
    moved = images.roll((dy, dx), dims=(1, 2))
    polar = transform.polar
    path = dx * np.cos(polar.theta_shell) + dy * np.sin(polar.theta_shell)
    phase = np.exp(-4j * np.pi / n * polar.radius_shells[:, None] * path)
    expected = transform(images).numpy() * phase
    np.testing.assert_allclose(transform(moved).numpy(), expected, atol=1e-11)


def test_x_is_the_fast_axis() -> None:
    """A wave along the columns has its power at θ = 0, not at 90°."""
    n = 32
    transform = make_transform(n)
    columns = torch.arange(n, dtype=torch.float64) - n // 2
    wave = torch.cos(2 * np.pi * 8 * columns / n).expand(1, n, n)
    power = transform(wave)[0].abs()
    shell, angle = divmod(int(power.argmax()), transform.polar.n_inplanes)
    assert angle % (transform.polar.n_inplanes // 2) == 0
    assert abs(2 * transform.polar.radius_shells[shell] - 8) < 0.5


def test_power_of_a_known_image() -> None:
    """The quadrature of |F|² of a Gaussian equals its integral in closed form."""
    n, sigma = 64, 4.0
    transform = make_transform(n)
    offsets = torch.arange(n, dtype=torch.float64) - n // 2
    line = torch.exp(-(offsets**2) / (2 * sigma**2))
    image = torch.outer(line, line)[None]
    # F = (4π/N) 2πσ² exp(−2π²σ²f²), f = 2k/N; ∫ |F|² 2πk dk over the plane
    amplitude = 4 * np.pi / n * 2 * np.pi * sigma**2
    expected = amplitude**2 * np.pi / (16 * np.pi**2 * sigma**2 / n**2)
    polar_images, found = transform.with_unit_power(image)
    np.testing.assert_allclose(found.numpy(), [expected], rtol=1e-10)
    torch.testing.assert_close(polar_images * found.sqrt(), transform(image))


@pytest.mark.parametrize("n_threads", [1, 3])
def test_images_are_normalised_on_the_way(n_threads: int) -> None:
    """Each image by its own mean and largest value, wherever it is in a batch."""
    transform = make_transform(20, "double")
    images = random_images(transform, 50) * torch.arange(1, 51)[:, None, None] - 7
    sign = torch.ones(50, dtype=torch.float64)
    sign[[3, 30]] = -1
    how = Normalisation.of_images(images, sign)
    found, power = transform.with_unit_power(images, normalisation=how, n_threads=n_threads)
    expected, expected_power = transform.with_unit_power(how.apply(images))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(power, expected_power)


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("n", [12, 16, 25, 32])
def test_results_may_begin_anywhere_in_memory(n: int, precision: str) -> None:
    """Vectors are written to memory that suits them only; the last bit does not depend on that."""
    transform = make_transform(n, precision)
    images = random_images(transform)
    expected = transform(images)
    for offset in (0, 1, 4, 8):
        memory = torch.zeros(expected.numel() + offset + 1, dtype=transform.complex_dtype)
        out = memory[offset:-1].view(expected.shape)
        assert torch.equal(transform(images, out), expected)
        assert not memory[:offset].any()
        assert memory[-1] == 0


def test_batches_do_not_change_an_image() -> None:
    """An image is the same, to rounding, whichever images it is transformed with."""
    transform = make_transform(20, "single")
    images = random_images(transform, 70)
    together = transform(images)
    alone = torch.cat([transform(images[i : i + 1]) for i in (0, 31, 32, 69)])
    assert relative_error(together[[0, 31, 32, 69]], alone.numpy()) < 1e-6


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize(("n", "n_inplanes"), [(2, None), (7, 9), (16, None), (25, 30)])
def test_steps_for_other_devices_equal_those_for_processors(
    n: int, n_inplanes: int | None, precision: str
) -> None:
    """What runs on a GPU, run on the processor, gives the same polar images."""
    transform = make_transform(n, precision, n_inplanes=n_inplanes)
    on_device = make_transform(n, precision, n_inplanes=n_inplanes)
    on_device._steps = _OnDevice(on_device._points, on_device._preweight, on_device.polar)
    images = random_images(transform)
    assert relative_error(on_device(images), transform(images).numpy()) < BOUND[precision] / 2
    for how in (None, Normalisation.of_images(images)):
        found, power = on_device.with_unit_power(images, normalisation=how)
        expected, expected_power = transform.with_unit_power(images, normalisation=how)
        assert relative_error(found, expected.numpy()) < BOUND[precision] / 2
        torch.testing.assert_close(power, expected_power, rtol=BOUND[precision], atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("n", [5, 64, 127])
def test_gpu_equals_processor(n: int, precision: str) -> None:
    """A GPU gives the same polar images."""
    transform = make_transform(n, precision)
    on_gpu = PolarTransform(transform.pixels, transform.polar, precision, "cuda")
    images = random_images(transform, 9)
    found = on_gpu(images.cuda()).cpu()
    assert relative_error(found, transform(images).numpy()) < BOUND[precision]


@pytest.mark.parametrize("n_threads", [None, 1, 3])
def test_threads_do_not_change_images(n_threads: int | None) -> None:
    """However many threads share the work, an image is the same to the last bit."""
    transform = make_transform(64, "single")
    images = random_images(transform, 50)
    expected = torch.cat([transform(image[None]) for image in images])
    before = torch.get_num_threads()
    torch.testing.assert_close(transform(images, n_threads=n_threads), expected, rtol=0, atol=0)
    assert torch.get_num_threads() == before


def test_transform_can_be_sent_to_another_process() -> None:
    """A pickled transform is small and does the same."""
    transform = make_transform(32, "single")
    sent = pickle.dumps(transform)
    assert len(sent) < 2_000
    images = random_images(transform)
    torch.testing.assert_close(pickle.loads(sent)(images), transform(images), rtol=0, atol=0)


def test_out_is_used() -> None:
    """The result can be put where the caller wants it, and is returned."""
    transform = make_transform(16)
    images = random_images(transform)
    out = torch.empty(3, transform.polar.n_shells, 32, dtype=torch.complex128)
    assert transform(images, out=out).data_ptr() == out.data_ptr()
    torch.testing.assert_close(out, transform(images))


def test_grids_must_be_within_nyquist() -> None:
    """A descriptor whose shells pass Nyquist is refused."""
    with pytest.raises(ValueError, match="beyond Nyquist"):
        ImageDescriptor(CartesianGrid2D(16, 1.0), PolarGrid(5.0, 0.25, 32), Precision.SINGLE, 0.1)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 12, 12), torch.float32),
        ((2, 20, 20), torch.float32),
        ((2, 16, 16), torch.float64),
    ],
)
def test_images_of_another_kind_are_refused(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """They would be read where there are none."""
    with pytest.raises(UsageError, match="16×16 pixels"):
        make_transform(16, "single")(torch.zeros(shape, dtype=dtype))


def test_results_must_fit_where_they_go() -> None:
    """Fewer angles, another precision and every second number of something are refused."""
    transform = make_transform(16, "single")
    images = random_images(transform)
    shape = (3, transform.polar.n_shells, transform.polar.n_inplanes)
    for out in (
        torch.empty((3, shape[1], shape[2] - 2), dtype=torch.complex64),
        torch.empty(shape, dtype=torch.complex128),
        torch.empty((*shape[:2], 2 * shape[2]), dtype=torch.complex64)[:, :, ::2],
    ):
        with pytest.raises(UsageError, match="out must be contiguous"):
            transform(images, out=out)


def test_points_beyond_nyquist_are_refused() -> None:
    """Also where no descriptor has looked."""
    with pytest.raises(UsageError, match="Nyquist"):
        PolarTransform(CartesianGrid2D(16, 1.0), PolarGrid(5.0, 0.25, 32))
