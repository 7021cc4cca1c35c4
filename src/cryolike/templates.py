"""Templates: polar Fourier images of a structure's projections, one for each viewing direction."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryolike.descriptor import PIXEL_SIZE_TOLERANCE, ImageDescriptor, Precision
from cryolike.errors import (
    CryoLikeError,
    CryoLikeWarning,
    ImageError,
    Problem,
    UsageError,
    raise_problems,
)
from cryolike.io.structure import (
    AtomSettings,
    StructureSource,
    check_fits,
    read_structure,
    structure_name,
    voxels_inside,
)
from cryolike.physics.polar import PolarTransform
from cryolike.physics.scattering import AtomicModel, DensityMap
from cryolike.physics.slices import CentralSlices, check_memory
from cryolike.physics.views import ViewingDirections
from cryolike.plot import TemplatePictures
from cryolike.store.template_files import (
    TemplateFiles,
    TemplateFolder,
    read_templates,
    template_files,
)
from cryolike.store.writer import check_free_space

__all__ = [
    "Structure",
    "TemplateSet",
    "check_structures",
    "fitted_structure",
    "grid_differences",
    "iter_templates",
    "make_templates",
    "open_templates",
    "structure_names",
    "write_templates",
]

Structure = AtomicModel | DensityMap | np.ndarray | Tensor
"""What templates are made of; an array holds a density with axes z, y, x."""

_DTYPE = {Precision.SINGLE: torch.complex64, Precision.DOUBLE: torch.complex128}

_VIEW_ARRAYS = ("rot_rad", "tilt_rad", "view_weights")
"""Names of what a file holds of the viewing directions."""


@dataclass(frozen=True, eq=False)
class TemplateSet:
    """Templates of one structure.

    Parameters
    ----------
    name
        Of the structure.
    images
        Polar images of the projections at (rot, tilt, psi = 0), the mean in the box removed and
        each of unit norm: complex64 or complex128 as the descriptor's precision,
        (n_views, n_shells, n_inplanes).
    views
        Viewing direction of each.
    descriptor
        Grids of the images.

    Raises
    ------
    UsageError
        Where the images do not fit the views or the descriptor.
    """

    name: str
    images: Tensor
    views: ViewingDirections
    descriptor: ImageDescriptor

    def __post_init__(self) -> None:
        polar = self.descriptor.polar_grid
        wanted = (len(self.views), polar.n_shells, polar.n_inplanes)
        dtype = _DTYPE[self.descriptor.precision]
        faults = []
        if tuple(self.images.shape) != wanted:
            faults.append(
                f"templates {self.name}: the images have shape {tuple(self.images.shape)}; the "
                f"descriptor and viewing directions ask for {wanted} (views, shells, angles)."
            )
        if self.images.dtype != dtype:
            faults.append(
                f"templates {self.name}: the images are {self.images.dtype}; precision "
                f"'{self.descriptor.precision}' asks for {dtype}."
            )
        if faults:
            raise UsageError("\n".join(faults))

    def __len__(self) -> int:
        return len(self.images)


def make_templates(
    structure: Structure,
    descriptor: ImageDescriptor,
    *,
    views: ViewingDirections | None = None,
    memory_bytes: float = 2e9,
    remove_mean: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> TemplateSet:
    """Make all templates of a structure.

    Parameters
    ----------
    structure
        Atoms, a map, or an array with axes z, y, x whose voxels have the size of the pixels. A
        map of another voxel size or box is resampled, with a warning.
    descriptor
        Grids and precision of the templates.
    views
        Viewing directions; those of the descriptor's `viewing_distance` if None.
    memory_bytes
        What the work may take, besides the templates themselves.
    remove_mean
        Whether the mean in the box is removed. Without it a template stays right when it is turned
        and shifted; otherwise the box whose mean was removed turns and moves along.
    progress
        Called with templates done and their number, after each batch.

    Returns
    -------
    TemplateSet
        In memory.

    Raises
    ------
    UsageError
        Where a model does not fit in the box, an array is no density, or memory is not enough.
    ImageError
        Where there is no density in the box.
    """
    structure = _density_of(structure, descriptor)
    views = ViewingDirections.of_spacing(descriptor.viewing_distance) if views is None else views
    batches = iter_templates(
        structure, descriptor, views=views, memory_bytes=memory_bytes, remove_mean=remove_mean
    )
    polar = descriptor.polar_grid
    shape = (len(views), polar.n_shells, polar.n_inplanes)
    images = torch.empty(shape, dtype=_DTYPE[descriptor.precision])
    n_done = 0
    for batch in batches:
        images[n_done : n_done + len(batch)] = batch
        n_done += len(batch)
        if progress is not None:
            progress(n_done, len(views))
    return TemplateSet(structure.name, images, views, descriptor)


def iter_templates(
    structure: Structure,
    descriptor: ImageDescriptor,
    *,
    views: ViewingDirections | None = None,
    memory_bytes: float = 2e9,
    remove_mean: bool = True,
) -> Iterator[Tensor]:
    """Make templates batch by batch, for who cannot or need not hold them all.

    Parameters
    ----------
    structure, descriptor, views
        As for `make_templates`.
    memory_bytes
        What the work may take, batches included.
    remove_mean
        As for `make_templates`.

    Returns
    -------
    iterator of Tensor
        Templates in the order of the views, (n, n_shells, n_inplanes).

    Raises
    ------
    UsageError, ImageError
        As for `make_templates`.
    """
    fitted = fitted_structure(_density_of(structure, descriptor), descriptor)
    views = ViewingDirections.of_spacing(descriptor.viewing_distance) if views is None else views
    slices = CentralSlices(fitted, descriptor, memory_bytes=memory_bytes)
    return _batches(fitted.name, slices, descriptor, views.euler_rad, remove_mean=remove_mean)


def fitted_structure(
    structure: AtomicModel | DensityMap, descriptor: ImageDescriptor
) -> AtomicModel | DensityMap:
    """Check that a structure fits in the box; of a larger map, cut out what does.

    Parameters
    ----------
    structure
        Atoms or a map.
    descriptor
        Of the images.

    Returns
    -------
    AtomicModel or DensityMap
        Warnings tell how a map that differs in voxel size or box is resampled.

    Raises
    ------
    UsageError
        Where a model does not fit.
    ImageError
        Where nothing of a map is in the box.
    """
    check_fits(structure, descriptor)
    if isinstance(structure, AtomicModel):
        return structure
    _warn_of_resampling(structure, descriptor)
    inside = voxels_inside(structure, descriptor.cartesian_grid.box_size_A)
    return replace(structure, values=structure.values[inside])


def _density_of(structure: Structure, descriptor: ImageDescriptor) -> AtomicModel | DensityMap:
    if isinstance(structure, AtomicModel | DensityMap):
        return structure
    pixel_A = descriptor.cartesian_grid.pixel_size_A
    return read_structure(structure, voxel_size_A=pixel_A, name=structure_name(structure))


def _warn_of_resampling(density: DensityMap, descriptor: ImageDescriptor) -> None:
    """Say that a map has another voxel size or box than the images, and what that means."""
    grid, voxel_A = descriptor.cartesian_grid, density.voxel_size_A
    is_same_size = abs(voxel_A / grid.pixel_size_A - 1) <= PIXEL_SIZE_TOLERANCE
    if not (is_same_size and density.values.shape == (grid.side_px,) * 3):
        shape = "×".join(map(str, density.values.shape[::-1]))
        message = (
            f"{density.name}: the map of {shape} voxels of {voxel_A:.5g} Å is resampled to the "
            f"images' box of {grid.side_px} pixels of {grid.pixel_size_A:.5g} Å."
        )
        warnings.warn(message, CryoLikeWarning, stacklevel=4)
    if descriptor.resolution_A * (1 + PIXEL_SIZE_TOLERANCE) < 2 * voxel_A:
        message = (
            f"{density.name}: the map has no data beyond {2 * voxel_A:.4g} Å, twice its voxel "
            f"size; templates are zero from there to the {descriptor.resolution_A:.4g} Å of the "
            "polar grid."
        )
        warnings.warn(message, CryoLikeWarning, stacklevel=4)


def _batches(
    name: str,
    slices: CentralSlices,
    descriptor: ImageDescriptor,
    euler_rad: np.ndarray,
    *,
    remove_mean: bool,
) -> Iterator[Tensor]:
    """Turn slices into templates: polar transforms of projections, without mean, normalised."""
    grid, polar = descriptor.cartesian_grid, descriptor.polar_grid
    n_pixels = grid.side_px**2
    transform = PolarTransform.of_descriptor(descriptor)
    ones = transform(torch.ones((1, grid.side_px, grid.side_px), dtype=transform.real_dtype))
    # Pixels of a projection hold density per Å²; their sum is the integral over a pixel's area
    of_area = 1 / grid.pixel_size_A**2
    mean = slices.at_zero * of_area / n_pixels if remove_mean else 0.0
    weights = torch.from_numpy(polar.point_weight_shells)
    for start in range(0, len(euler_rad), slices.n_views_at_once):
        part = euler_rad[start : start + slices.n_views_at_once]
        images = torch.from_numpy(slices(part))
        images *= 4 * np.pi / grid.side_px * of_area
        images -= mean * ones
        shell_norms = torch.linalg.vector_norm(torch.view_as_real(images).flatten(-2), dim=-1)
        power = shell_norms.to(torch.float64).square() @ weights
        if not bool((power > 0).all()):
            message = "there is no density in the box: templates are zero"
            remedy = "Check that it is the structure you mean, and its voxel size."
            raise ImageError(Problem(message=message, remedy=remedy, file=name, kind="image"))
        images *= power.rsqrt().to(shell_norms.dtype)[:, None, None]
        yield images


def structure_names(sources: Sequence[StructureSource]) -> list[str]:
    """Name inputs after their files, ``tensor_I`` if in memory; a name taken gets ``_1``, ``_2``.

    Parameters
    ----------
    sources
        Paths or densities.
    """
    names: list[str] = []
    for i, source in enumerate(sources):
        base = name = structure_name(source, i)
        n_taken = 0
        while name in names:
            n_taken += 1
            name = f"{base}_{n_taken}"
        names.append(name)
    return names


def check_structures(
    sources: Sequence[StructureSource],
    descriptor: ImageDescriptor | None,
    settings: AtomSettings | None = None,
    *,
    memory_bytes: float = 2e9,
) -> None:
    """Read all inputs and check that they can be used; nothing is kept.

    Parameters
    ----------
    sources
        Paths of maps and atomic models, or densities.
    descriptor
        Of the images; None where it is not known, and then only the inputs themselves are checked.
    settings
        For atomic models; what the descriptor carries if None.
    memory_bytes
        What making their templates may take.

    Raises
    ------
    CryoLikeError
        Everything that is wrong with any of them.
    """
    problems: list[Problem] = []
    if not sources:
        message = "no structures given"
        remedy = "Name maps (.mrc, .map) or atomic models (.pdb, .cif)."
        problems.append(Problem(message=message, remedy=remedy, kind="usage"))
    n_models = 0
    for source, name in zip(sources, structure_names(sources), strict=True):
        try:
            structure = _read(source, name, descriptor, settings)
            n_models += isinstance(structure, AtomicModel)
            if descriptor is not None:
                check_memory(fitted_structure(structure, descriptor), descriptor, memory_bytes)
        except CryoLikeError as error:
            problems.extend(error.problems)
    raise_problems(problems)
    if settings is not None and settings.atom_model == "electron" and not n_models:
        message = "electron scattering was asked for, but all structures are maps: it means nothing"
        warnings.warn(f"{message} for these.", CryoLikeWarning, stacklevel=2)


def write_templates(
    sources: Sequence[StructureSource],
    descriptor: ImageDescriptor,
    folder: str | Path,
    *,
    settings: AtomSettings | None = None,
    views: ViewingDirections | None = None,
    plots: bool = True,
    overwrite: bool = False,
    memory_bytes: float = 2e9,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, ...]:
    """Make templates of structures and write a file for each, and the list of the files.

    Parameters
    ----------
    sources
        Paths of maps and atomic models, or densities.
    descriptor
        Grids and precision of the templates.
    folder
        Made where it does not exist.
    settings
        For atomic models; what the descriptor carries if None.
    views
        Viewing directions; those of the descriptor's `viewing_distance` if None.
    plots
        Whether to draw each structure's templates.
    overwrite
        Whether templates that are there may be replaced.
    memory_bytes
        What the work may take; no more templates are held than fit.
    progress
        Called with templates done and their number, of all structures.

    Returns
    -------
    tuple of Path
        The files of templates, in the order of the sources.

    Raises
    ------
    CryoLikeError
        Everything that is wrong with any of the inputs, before anything is written; where there
        are templates in the folder already; or what the disk refuses.
    """
    settings = AtomSettings.from_descriptor(descriptor) if settings is None else settings
    views = ViewingDirections.of_spacing(descriptor.viewing_distance) if views is None else views
    output = TemplateFolder(folder, overwrite=overwrite)
    output.refuse_existing()
    check_structures(sources, descriptor, settings, memory_bytes=memory_bytes)
    polar, n_in_all = descriptor.polar_grid, len(views) * len(sources)
    check_free_space(output.folder, n_in_all * descriptor.polar_image_bytes)
    of_views = (views.rot_rad, views.tilt_rad, views.weights)
    arrays = descriptor.to_arrays() | dict(zip(_VIEW_ARRAYS, of_views, strict=True))
    shape = (len(views), polar.n_shells, polar.n_inplanes)
    with output:
        for i, (source, name) in enumerate(zip(sources, structure_names(sources), strict=True)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CryoLikeWarning)  # told when it was checked
                batches = iter_templates(
                    _read(source, name, descriptor, settings),
                    descriptor,
                    views=views,
                    memory_bytes=memory_bytes,
                )
            pictures = TemplatePictures() if plots else None
            seen = _seen_by(batches, pictures, progress, i * len(views), n_in_all)
            output.write(name, seen, shape, _DTYPE[descriptor.precision], arrays)
            if pictures is not None:
                output.write_plots(name, pictures.draw(descriptor, views, name))
        return output.finish()


def open_templates(
    source: str | Path, descriptor: ImageDescriptor | None = None
) -> tuple[TemplateSet, ...]:
    """Open templates from files, without loading them.

    Parameters
    ----------
    source
        Folder that `write_templates` wrote, the list of files in it, or one file of templates.
    descriptor
        Of the images they are to be compared with; their own if None.

    Returns
    -------
    tuple of TemplateSet
        Mapped into memory, one for each structure.

    Raises
    ------
    MissingFileError
        Where there are none.
    IncompleteOutputError
        Where a file is damaged.
    UsageError
        Where their grids are not those of the descriptor; the message says how they differ.
    """
    sets: list[TemplateSet] = []
    problems: list[Problem] = []
    for file in template_files(source):
        try:
            sets.append(_open(file, descriptor))
        except UsageError as error:
            problems.extend(error.problems)
    if problems:
        raise UsageError(problems)
    return tuple(sets)


def _read(
    source: StructureSource,
    name: str,
    descriptor: ImageDescriptor | None,
    settings: AtomSettings | None,
) -> AtomicModel | DensityMap:
    voxel_A = None
    if descriptor is not None:
        settings = settings or AtomSettings.from_descriptor(descriptor)
        if isinstance(source, np.ndarray | Tensor):
            voxel_A = descriptor.cartesian_grid.pixel_size_A
    return read_structure(source, settings, voxel_size_A=voxel_A, name=name)


def _seen_by(
    batches: Iterator[Tensor],
    pictures: TemplatePictures | None,
    progress: Callable[[int, int], None] | None,
    n_done: int,
    n_in_all: int,
) -> Iterator[Tensor]:
    """Pass templates on, and show them to who draws and who counts."""
    for batch in batches:
        if pictures is not None:
            pictures.add(batch)
        yield batch
        n_done += len(batch)
        if progress is not None:
            progress(n_done, n_in_all)


def _open(file: TemplateFiles, wanted: ImageDescriptor | None) -> TemplateSet:
    images, arrays = read_templates(file.path), file.arrays(*_VIEW_ARRAYS)
    if arrays is not None:
        own = ImageDescriptor.from_arrays(arrays)
        views = ViewingDirections(*(arrays[name] for name in _VIEW_ARRAYS))
    elif wanted is not None:
        precision = Precision.SINGLE if images.dtype == torch.complex64 else Precision.DOUBLE
        own = wanted.with_precision(precision)
        views = ViewingDirections.of_spacing(wanted.viewing_distance)
    else:
        message = "does not say which grid it is on: there is no .npz of the same name beside it"
        remedy = "Give the image descriptor they were made with."
        raise UsageError(Problem(message=message, remedy=remedy, file=str(file.path), kind="usage"))
    differences = [] if wanted is None else grid_differences(own, wanted)
    if differences:
        problem = Problem(
            message="templates and images are on different grids",
            remedy="Make the templates with the descriptor of the images.",
            file=str(file.path),
            places=differences,
            kind="usage",
        )
        raise UsageError(problem)
    return TemplateSet(file.name, images, views, own)


def grid_differences(templates: ImageDescriptor, images: ImageDescriptor) -> list[str]:
    """Say how the grids of templates and of images differ, one line for each difference.

    Parameters
    ----------
    templates, images
        Their descriptors; precision and settings of templates do not count.
    """
    values = [
        (
            ("box, pixels", grids.cartesian_grid.side_px),
            ("pixel size, Å", grids.cartesian_grid.pixel_size_A),
            ("radius_max of the polar grid", grids.polar_grid.radius_max),
            ("shells", grids.polar_grid.n_shells),
            ("in-plane angles", grids.polar_grid.n_inplanes),
        )
        for grids in (templates, images)
    ]
    return [
        f"{name}: {ours:g} of the templates, {theirs:g} of the images"
        for (name, ours), (_, theirs) in zip(*values, strict=True)
        if abs(ours - theirs) > PIXEL_SIZE_TOLERANCE * abs(theirs)
    ]
