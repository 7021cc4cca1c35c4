"""Central slices against direct sums in double precision, and against symmetries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from cryolike.descriptor import ImageDescriptor
from cryolike.errors import UsageError
from cryolike.physics.polar import PolarTransform
from cryolike.physics.rotations import rotation_matrices
from cryolike.physics.scattering import (
    AtomicModel,
    DensityMap,
    FormFactors,
    bead_form_factors,
    electron_form_factors,
)
from cryolike.physics.slices import CentralSlices, check_memory

TOLERANCE = {"single": 5e-6, "double": 1e-10}
PIXEL_A = 2.0


def some_descriptor(
    side_px: int = 24, precision: str = "single", n_inplanes: int | None = None
) -> ImageDescriptor:
    """Small images."""
    return ImageDescriptor.from_individual_values(
        side_px, PIXEL_A, precision, n_inplanes=n_inplanes
    )


def some_angles(n_views: int) -> np.ndarray:
    """Draw rot, tilt and psi."""
    rng = np.random.default_rng(3)
    euler_rad: np.ndarray = rng.uniform(-np.pi, np.pi, (n_views, 3))
    return euler_rad


def direct(
    transform: Callable[[np.ndarray], np.ndarray], descriptor: ImageDescriptor, euler: np.ndarray
) -> np.ndarray:
    """Evaluate a transform at s = Aᵀ (s cos θ, s sin θ, 0), as the convention has it."""
    polar = descriptor.polar_grid
    frequency = 2 * polar.radius_shells / descriptor.cartesian_grid.box_size_A
    cosine, sine = np.cos(polar.theta_shell), np.sin(polar.theta_shell)
    in_plane = np.stack([cosine, sine, np.zeros_like(sine)], axis=1)
    slices = []
    for matrix in rotation_matrices(euler):
        points = frequency[:, None, None] * (in_plane @ matrix)
        slices.append(transform(points.reshape(-1, 3)).reshape(polar.n_shells, -1))
    return np.stack(slices)


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Relative error in the L2 norm."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def noise_map(shape: tuple[int, int, int], voxel_size_A: float = PIXEL_A) -> DensityMap:
    """White noise in all of the box: nothing is harder to transform."""
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return DensityMap("noise", values, voxel_size_A)


def transform_of_map(density: DensityMap) -> Callable[[np.ndarray], np.ndarray]:
    """Sum over voxels, the origin at voxel floor(n/2); zero beyond the map's Nyquist."""
    middle = np.array(density.values.shape)[:, None] // 2
    z_y_x = np.indices(density.values.shape).reshape(3, -1) - middle
    places_A = z_y_x[::-1] * density.voxel_size_A
    values = density.values.ravel().astype(np.float64) * density.voxel_size_A**3

    def transform(points: np.ndarray) -> np.ndarray:
        inside = np.linalg.norm(points, axis=1) <= 1 / (2 * density.voxel_size_A) * (1 + 1e-9)
        sums: np.ndarray = (np.exp(-2j * np.pi * points @ places_A) @ values) * inside
        return sums

    return transform


def transform_of_atoms(model: AtomicModel) -> Callable[[np.ndarray], np.ndarray]:
    """Sum over atoms."""

    def transform(points: np.ndarray) -> np.ndarray:
        shapes = model.form_factors(np.linalg.norm(points, axis=1))[model.kind]
        waves = np.exp(-2j * np.pi * points @ model.positions_A.T)
        sums: np.ndarray = np.einsum("ja,aj,a->j", waves, shapes, model.weight)
        return sums

    return transform


def some_atoms(form_factors: FormFactors, n_atoms: int = 40, spread_A: float = 7.0) -> AtomicModel:
    """Atoms at random places, of all kinds, some of half weight."""
    rng = np.random.default_rng(1)
    return AtomicModel(
        name="atoms",
        positions_A=rng.normal(scale=spread_A, size=(n_atoms, 3)).clip(-17, 17),
        kind=np.arange(n_atoms) % form_factors.n_kinds,
        weight=rng.choice([0.5, 1.0], n_atoms),
        form_factors=form_factors,
    )


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("shape", [(24, 24, 24), (15, 12, 18)])
def test_maps_equal_the_direct_sum(precision: str, shape: tuple[int, int, int]) -> None:
    """Even and odd sides, also unequal ones."""
    descriptor, euler, density = some_descriptor(16, precision), some_angles(3), noise_map(shape)
    slices = CentralSlices(density, descriptor)(euler)
    assert slices.dtype == (np.complex64 if precision == "single" else np.complex128)
    expected = direct(transform_of_map(density), descriptor, euler)
    assert error(slices, expected) < TOLERANCE[precision]


@pytest.mark.parametrize("n_inplanes", [1, 2, 7, 30, 45])
def test_any_number_of_angles(n_inplanes: int) -> None:
    """Odd numbers too, where no point has its opposite on the grid."""
    descriptor, density = some_descriptor(12, n_inplanes=n_inplanes), noise_map((12, 12, 12))
    expected = direct(transform_of_map(density), descriptor, some_angles(2))
    assert error(CentralSlices(density, descriptor)(some_angles(2)), expected) < 5e-6


@pytest.mark.parametrize("voxel_size_A", [1.3, 3.1])
def test_other_voxel_sizes(voxel_size_A: float) -> None:
    """Frequencies are physical; what a coarse map does not hold is zero."""
    descriptor, density = some_descriptor(16), noise_map((14, 14, 14), voxel_size_A)
    slices = CentralSlices(density, descriptor)
    expected = direct(transform_of_map(density), descriptor, some_angles(2))
    assert error(slices(some_angles(2)), expected) < 5e-6
    assert (slices.n_shells_known < descriptor.polar_grid.n_shells) == (voxel_size_A > PIXEL_A)


@pytest.mark.parametrize("filled", [slice(3, 7), slice(0, 4), slice(6, 7), slice(0, 0)])
def test_empty_margins_change_nothing(filled: slice) -> None:
    """A map that is zero around a part, wherever that is, keeps its origin."""
    noise = noise_map((14, 13, 12))
    values = np.zeros_like(noise.values)
    values[filled, 5:11, filled] = noise.values[filled, 5:11, filled]
    density, descriptor = DensityMap("part", values, PIXEL_A), some_descriptor(16)
    expected = direct(transform_of_map(density), descriptor, some_angles(2))
    slices = CentralSlices(density, descriptor)(some_angles(2))
    assert np.linalg.norm(slices - expected) <= 5e-6 * np.linalg.norm(expected)


def test_nothing_is_known_of_a_very_coarse_map() -> None:
    """All shells are zero where the first is beyond the map's Nyquist frequency."""
    slices = CentralSlices(noise_map((4, 4, 4), 5000.0), some_descriptor(16))
    assert slices.n_shells_known == 0
    assert not slices(some_angles(2)).any()


SHAPES = {
    "gaussian": bead_form_factors(np.linspace(2.25, 3.4, 9), "gaussian"),
    "wide": bead_form_factors(np.array([9.0, 12.0]), "gaussian"),
    "hard-sphere": bead_form_factors(np.linspace(2.25, 3.4, 9), "hard-sphere"),
    "electron": electron_form_factors(["C", "N", "O", "S", "H"] * 4, np.linspace(0.0, 90.0, 20)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_atoms_equal_the_direct_sum(shape: str) -> None:
    """Every form factor, in every shell together and in the outer half alone."""
    descriptor, model = some_descriptor(), some_atoms(SHAPES[shape])
    slices = CentralSlices(model, descriptor)(some_angles(3))
    expected = direct(transform_of_atoms(model), descriptor, some_angles(3))
    assert error(slices, expected) < TOLERANCE["single"]


@pytest.mark.parametrize("shape", ["gaussian", "electron"])
def test_atoms_equal_the_direct_sum_in_double_precision(shape: str) -> None:
    """To 1e-10."""
    descriptor = some_descriptor(12, "double")
    few_kinds = SHAPES[shape].of_kinds(np.array([0, 4, 7]))
    model = some_atoms(few_kinds, n_atoms=20, spread_A=3.0)
    slices = CentralSlices(model, descriptor)(some_angles(2))
    expected = direct(transform_of_atoms(model), descriptor, some_angles(2))
    assert error(slices, expected) < TOLERANCE["double"]


def test_a_single_atom_far_from_the_middle() -> None:
    """Its transform is a plane wave of constant size, whatever the view."""
    position_A = np.array([[14.0, -11.0, 9.0]])
    model = AtomicModel(
        "one",
        position_A,
        np.zeros(1, dtype=np.int64),
        np.ones(1),
        bead_form_factors(np.array([1e-6]), "gaussian"),
    )
    descriptor = some_descriptor()
    slices = CentralSlices(model, descriptor)(some_angles(4))
    np.testing.assert_allclose(np.abs(slices), 1, atol=3e-5)
    expected = direct(transform_of_atoms(model), descriptor, some_angles(4))
    assert error(slices, expected) < TOLERANCE["single"]


def test_at_zero_is_the_integral() -> None:
    """The sum over voxels times their volume; the sum over atoms of what they weigh."""
    density, model = noise_map((9, 8, 7), 1.5), some_atoms(SHAPES["gaussian"])
    total = density.values.sum(dtype=np.float64) * 1.5**3
    assert CentralSlices(density, some_descriptor()).at_zero == pytest.approx(total)
    assert CentralSlices(model, some_descriptor()).at_zero == pytest.approx(
        model.weight.sum(), rel=1e-6
    )


def test_psi_turns_the_slice() -> None:
    """A slice at psi = −γ is the one at psi = 0, moved on by γ in θ."""
    descriptor, euler, steps = some_descriptor(), some_angles(3), 11
    slices = CentralSlices(noise_map((24, 24, 24)), descriptor)
    euler[:, 2] = 0
    flat = slices(euler)
    euler[:, 2] = -2 * np.pi * steps / descriptor.polar_grid.n_inplanes
    assert error(slices(euler), np.roll(flat, steps, axis=2)) < 5e-6
    assert error(slices(euler), np.roll(flat, -steps, axis=2)) > 0.5


def test_opposite_views_are_mirror_images() -> None:
    """Seen from behind, at (rot + π, π − tilt), x stays and y is reversed: θ becomes −θ."""
    descriptor = some_descriptor()
    slices = CentralSlices(noise_map((24, 24, 24)), descriptor)
    front = some_angles(3) * [1, 1, 0]
    back = np.stack([front[:, 0] + np.pi, np.pi - front[:, 1], front[:, 2]], axis=1)
    reversed_theta = -np.arange(descriptor.polar_grid.n_inplanes)
    assert error(slices(back), slices(front)[:, :, reversed_theta]) < 5e-6


def test_slices_along_axes_are_transforms_of_sums() -> None:
    """At zero angles rows are y, columns x; at tilt 90° the columns are −z."""
    n = 15
    density, descriptor = noise_map((n, n, n)), some_descriptor(n, "double")
    values = density.values.astype(np.float64)
    slices = CentralSlices(density, descriptor)(np.array([[0, 0, 0], [0, np.pi / 2, 0]]))
    seen = np.stack([values.sum(axis=0), values.sum(axis=2).T[:, ::-1]])
    expected = PolarTransform.of_descriptor(descriptor)(torch.from_numpy(seen)).numpy()
    assert error(slices * (4 * np.pi / n / PIXEL_A**3), expected) < 1e-10


def test_little_memory_gives_the_same_in_small_batches() -> None:
    """Batches follow the memory allowed, and change nothing."""
    descriptor, density, euler = some_descriptor(), noise_map((24, 24, 24)), some_angles(40)
    many = CentralSlices(density, descriptor)
    few = CentralSlices(density, descriptor, memory_bytes=1.5e6)
    assert few.n_views_at_once < 40 < many.n_views_at_once
    assert error(few(euler), many(euler)) < 2e-6


def test_too_little_memory_is_refused() -> None:
    """The error says what is needed and what was allowed."""
    with pytest.raises(UsageError, match=r"24×24×24 voxels need .* GB .* more than the 0.0001 GB"):
        CentralSlices(noise_map((24, 24, 24)), some_descriptor(), memory_bytes=1e5)


def test_no_views_are_no_slices() -> None:
    """An empty list of views gives an empty array."""
    descriptor = some_descriptor()
    slices = CentralSlices(noise_map((8, 8, 8)), descriptor)(np.zeros((0, 3)))
    assert slices.shape == (0, descriptor.polar_grid.n_shells, descriptor.polar_grid.n_inplanes)


@pytest.mark.parametrize("of", ["map", "atoms"])
def test_memory_is_checked_without_the_work(of: str) -> None:
    """The check refuses just what would be refused, in the same words."""
    beads = some_atoms(bead_form_factors(np.full(40, 2.0), "gaussian"))
    structure = noise_map((24, 24, 24)) if of == "map" else beads

    def refusal(attempt: Callable[..., object], memory_bytes: float) -> str:
        try:
            attempt(structure, some_descriptor(), memory_bytes=memory_bytes)
        except UsageError as error:
            return str(error)
        return ""

    amounts = np.geomspace(1e4, 1e8, 17)
    checked = [refusal(check_memory, float(amount)) for amount in amounts]
    assert checked == [refusal(CentralSlices, float(amount)) for amount in amounts]
    assert checked[0] != ""
    assert checked[-1] == ""
