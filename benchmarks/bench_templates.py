"""Templates: against one NUFFT for each view, and time and memory of a large model."""

from __future__ import annotations

import json

import finufft
import numpy as np
from children import in_fresh_process, templates_of_atoms
from measure import Comparison, Way, compare, main, scratch_folder, spoken, time_in_turn

from cryolike.descriptor import ImageDescriptor
from cryolike.physics.rotations import rotation_matrices
from cryolike.physics.scattering import DensityMap
from cryolike.physics.slices import CentralSlices
from cryolike.physics.views import ViewingDirections
from cryolike.simulate import asymmetric_particle, density_map

_PIXEL_A = 2.0
_LIMIT_S, _LIMIT_MB = 300.0, 4000.0


def view_by_view(
    density: DensityMap, descriptor: ImageDescriptor, euler_rad: np.ndarray, dtype: str
) -> np.ndarray:
    """Slice a map with one 3-D NUFFT a view, at all polar points of it."""
    polar = descriptor.polar_grid
    radians = 4 * np.pi * polar.radius_shells / descriptor.cartesian_grid.side_px
    theta_rad = polar.theta_shell
    in_plane = np.stack([np.cos(theta_rad), np.sin(theta_rad)])
    plane = (in_plane[:, None] * radians[:, None]).reshape(2, -1)
    values = density.values.astype(dtype)
    real = values.real.dtype
    slices = []
    for matrix in rotation_matrices(euler_rad):
        x, y, z = (matrix[:2].T @ plane).astype(real)
        slices.append(finufft.nufft3d2(z, y, x, values, eps=1e-6, isign=-1))
    return np.stack(slices).reshape(len(euler_rad), polar.n_shells, polar.n_inplanes)


def of_maps(n_pixels: int, n_views: int, n_runs: int) -> list[Comparison]:
    """Compare slices of a map with those made view by view, in double and single precision."""
    descriptor = ImageDescriptor.from_individual_values(n_pixels, _PIXEL_A)
    values = density_map(asymmetric_particle(0.3 * n_pixels * _PIXEL_A), n_pixels, _PIXEL_A)
    density = DensityMap("map", values.astype(np.float32), _PIXEL_A)
    euler_rad = ViewingDirections.of_spacing(descriptor.viewing_distance).euler_rad[:n_views]
    few = euler_rad[:: max(1, n_views // 32)]
    ours, *others = time_in_turn(
        Way(
            name=f"slices of a map, {n_pixels} pixels, {len(euler_rad)} views",
            work=lambda: CentralSlices(density, descriptor)(euler_rad),
            amount=len(euler_rad),
            unit="views",
        ),
        *(
            Way(
                name=f"one 3-D NUFFT per view, {dtype}, eps 1e-6",
                work=lambda dtype=dtype: view_by_view(density, descriptor, few, dtype),
                amount=len(few),
                unit="views",
            )
            for dtype in ("complex128", "complex64")
        ),
        n_runs=n_runs,
    )
    return [compare(ours, other, at_least=15) for other in others]


def of_atoms(n_pixels: int, n_atoms: int, n_runs: int) -> list[Comparison]:
    """Time and memory that templates of an atomic model take in a fresh process."""
    with scratch_folder() as folder:
        settings = folder / "settings.json"
        settings.write_text(json.dumps({"n_pixels": n_pixels, "n_atoms": n_atoms}))
        runs = [in_fresh_process(templates_of_atoms, settings) for _ in range(n_runs)]
    seconds, peaks_MB = zip(*runs, strict=True)
    name = f"templates of {n_atoms:,} atoms, {n_pixels} pixels, default views"
    return [
        Comparison(
            name=name if kind == "time" else f"peak memory of {name}, they included",
            measured=f"{spoken(float(np.median(values)))} {unit}",
            reference=f"{limit:,.0f} {unit}",
            ratios=tuple(value / limit for value in values),
            at_most=1,
        )
        for kind, values, limit, unit in (
            ("time", seconds, _LIMIT_S, "s"),
            ("memory", peaks_MB, _LIMIT_MB, "MB"),
        )
    ]


def run(
    n_pixels: int = 64,
    n_views: int = 470,
    n_pixels_of_atoms: int = 128,
    n_atoms: int = 4000,
    n_runs: int = 3,
) -> list[Comparison]:
    """Compare what a map and an atomic model cost."""
    return [
        *of_maps(n_pixels, n_views, n_runs),
        *of_atoms(n_pixels_of_atoms, n_atoms, n_runs),
    ]


if __name__ == "__main__":
    main(run)
