"""The published likelihood functions, over `PoseSearch`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryolike.descriptor import ImageDescriptor, Precision, load_descriptor
from cryolike.errors import (
    CryoLikeError,
    CryoLikeWarning,
    IncompleteOutputError,
    OutputExistsError,
    Problem,
    UsageError,
    counted,
    raise_problems,
)
from cryolike.grids import PolarGrid
from cryolike.physics.ctf import CtfParameters, ctf_on_polar_grid
from cryolike.progress import progress_bar
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.poses import PoseScores
from cryolike.scoring.search import PoseSearch
from cryolike.store import StackSet, open_stacks
from cryolike.store.likelihood_files import (
    MATRICES,
    LikelihoodLayout,
    load_tensor,
    save_tensor,
    write_tensor,
)
from cryolike.store.manifest import checksum_of_file
from cryolike.store.scores import whole_file
from cryolike.store.template_files import TemplateFiles, template_files
from cryolike.store.writer import check_free_space, writing
from cryolike.templates import TemplateSet, grid_differences, open_templates

__all__ = [
    "DisplacementSettings",
    "LikelihoodFiles",
    "configure_displacement",
    "configure_likelihood_files",
    "published_columns",
    "run_likelihood_full_cross_correlation",
    "run_likelihood_optimal_pose",
    "stitch_log_likelihood_matrices",
    "write_published_files",
]

_MEMORY_BYTES = 4e9
"""For a comparison whose batch sizes are estimated."""

_REAL = {Precision.SINGLE: torch.float32, Precision.DOUBLE: torch.float64}

_RESULT = "result  "
"""Before the kinds of results that were made of the files named above them."""

_OPTIMAL_POSE = (
    "cross_correlation",
    "template",
    "displacement_x",
    "displacement_y",
    "inplane_rotation",
)


@dataclass(frozen=True, kw_only=True)
class LikelihoodFiles:
    """Where templates and particles are, and where results go; checked.

    Parameters
    ----------
    folder_templates, folder_particles, folder_output
        The folders.
    template_files
        One file of templates for each structure.
    n_stacks
        Stacks of images to use.
    i_template
        Number of the structure.
    """

    folder_templates: Path
    folder_particles: Path
    folder_output: Path
    template_files: tuple[Path, ...]
    n_stacks: int
    i_template: int


@dataclass(frozen=True, kw_only=True)
class DisplacementSettings:
    """A grid of displacements, in pixels.

    Parameters
    ----------
    max_displacement_pixels
        It goes from minus to plus this, ends included.
    n_displacements_x, n_displacements_y
        Number of displacements along each axis; 1 or less means only zero.
    """

    max_displacement_pixels: float
    n_displacements_x: int
    n_displacements_y: int

    def displacements(self, pixel_size_A: float) -> Displacements:
        """Make the grid for images of a pixel size."""
        return Displacements.grid(
            self.max_displacement_pixels,
            self.n_displacements_x,
            self.n_displacements_y,
            pixel_size_A,
        )


def configure_likelihood_files(
    folder_templates: str | Path,
    folder_particles: str | Path,
    folder_output: str | Path = "",
    n_stacks: int = 1,
    i_template: int = 0,
) -> LikelihoodFiles:
    """Check that templates and particles are there.

    Parameters
    ----------
    folder_templates
        Folder with ``template_file_list.npy``.
    folder_particles
        Folder of a converted set.
    folder_output
        Where results go; the working directory if empty.
    n_stacks
        How many stacks of images will be used.
    i_template
        Which structure of the list will be.

    Returns
    -------
    LikelihoodFiles
        To be passed on.

    Raises
    ------
    CryoLikeError
        Everything that is missing, in one error.
    """
    problems: list[Problem] = []
    errors: list[CryoLikeError] = []
    files: list[TemplateFiles] = []
    try:
        files = template_files(folder_templates)
        problems += _problems_of_index(i_template, len(files), "i_template")
    except CryoLikeError as error:
        errors.append(error)
    try:
        problems += _problems_of_stacks(n_stacks, open_stacks(folder_particles))
    except CryoLikeError as error:
        errors.append(error)
    if len(errors) == 1 and not problems:
        raise errors[0]
    raise_problems([*(problem for error in errors for problem in error.problems), *problems])
    return LikelihoodFiles(
        folder_templates=Path(folder_templates),
        folder_particles=Path(folder_particles),
        folder_output=Path(folder_output),
        template_files=tuple(file.path for file in files),
        n_stacks=n_stacks,
        i_template=i_template,
    )


def configure_displacement(
    max_displacement_pixels: float = 8.0, n_displacements_x: int = -1, n_displacements_y: int = -1
) -> DisplacementSettings:
    """Describe the displacements to try; the parameters are those of `DisplacementSettings`.

    Returns
    -------
    DisplacementSettings
        To be passed on.

    Raises
    ------
    UsageError
        Where a number is out of range.
    """
    settings = DisplacementSettings(
        max_displacement_pixels=max_displacement_pixels,
        n_displacements_x=n_displacements_x,
        n_displacements_y=n_displacements_y,
    )
    settings.displacements(1.0)
    return settings


def run_likelihood_optimal_pose(
    file_config: LikelihoodFiles,
    params_input: ImageDescriptor | str | Path,
    displacer: DisplacementSettings,
    template_index: int = 0,
    n_stacks: int = 1,
    skip_exist: bool = False,
    n_templates_per_batch: int = 1,
    n_images_per_batch: int = 128,
    estimate_batch_size: bool = False,
    return_likelihood_optimal_pose_fourier: bool = False,
    return_likelihood_integrated_pose_fourier: bool = False,
) -> None:
    """Find the best pose of every image under one structure, and write it as published.

    Parameters
    ----------
    file_config
        From `configure_likelihood_files`.
    params_input
        Image descriptor, or the path of a saved one.
    displacer
        From `configure_displacement`.
    template_index
        Which structure.
    n_stacks
        How many stacks of images.
    skip_exist
        Keep the results of stacks that are complete and made of the same templates and images.
    n_templates_per_batch, n_images_per_batch
        At most that many images are held at once, and their comparison takes no more memory than
        all poses of that many images and templates.
    estimate_batch_size
        Choose both by the memory they take instead.
    return_likelihood_optimal_pose_fourier, return_likelihood_integrated_pose_fourier
        Whether to write log-likelihoods, at the best pose and integrated over all.

    Raises
    ------
    UsageError
        Where numbers are out of range, or the grids of templates and images differ.
    OutputExistsError
        Where the folder holds results of other displacements.
    IncompleteOutputError
        Where a file of templates or particles is damaged.
    OutputError
        Where the disk is full or refuses.
    """
    kinds = [*_OPTIMAL_POSE]
    kinds += ["log_likelihood_optimal"] * return_likelihood_optimal_pose_fourier
    kinds += ["log_likelihood_integrated"] * return_likelihood_integrated_pose_fourier
    batch = _BatchSize(n_templates_per_batch, n_images_per_batch, estimate_batch_size)
    run = _Run(file_config, params_input, displacer, template_index, n_stacks, batch)
    shapes = {
        position: dict.fromkeys(kinds, (n_images,))
        for position, n_images in enumerate(run.n_images)
    }
    todo = run.missing(shapes) if skip_exist else list(shapes)
    run.prepare(kinds, todo)
    with progress_bar("comparing", visible=sys.stderr.isatty()) as progress:
        for n_done, position in enumerate(todo, 1):
            with run.whole_stack(kinds, position):
                parts = [run.search.score(*part) for part in run.images_and_ctf(position)]
                columns = published_columns(_joined_columns(parts), run.displacements, run.polar)
                for kind in kinds:
                    save_tensor(run.path(kind, position), columns[kind])
            progress(n_done, len(todo))


def run_likelihood_full_cross_correlation(
    file_config: LikelihoodFiles,
    params_input: ImageDescriptor | str | Path,
    displacer: DisplacementSettings,
    template_index: int = 0,
    n_stacks: int = 1,
    skip_exist: bool = False,
    n_templates_per_batch: int = 1,
    n_images_per_batch: int = 128,
    estimate_batch_size: bool = False,
) -> None:
    """Write the cross-correlation of every image with every template in every pose.

    The tensor of a stack has the axes image, template, displacement and in-plane rotation. It is
    large: what the disk cannot hold is refused before any work.

    Parameters
    ----------
    file_config, params_input, displacer, template_index, n_stacks, skip_exist
        As in `run_likelihood_optimal_pose`.
    n_templates_per_batch, n_images_per_batch, estimate_batch_size
        Likewise.

    Raises
    ------
    CryoLikeError
        As `run_likelihood_optimal_pose`.
    """
    batch = _BatchSize(n_templates_per_batch, n_images_per_batch, estimate_batch_size)
    run = _Run(file_config, params_input, displacer, template_index, n_stacks, batch)
    kind = "cross_correlation_full"
    shapes = {
        position: {kind: (n_images, *run.poses_shape)}
        for position, n_images in enumerate(run.n_images)
    }
    todo = run.missing(shapes) if skip_exist else list(shapes)
    n_values = sum(int(np.prod(shapes[position][kind])) for position in todo)
    check_free_space(run.layout.folder, n_values * run.real_dtype.itemsize)
    run.prepare([kind], todo)
    with progress_bar("comparing", visible=sys.stderr.isatty()) as progress:
        for n_done, position in enumerate(todo, 1):
            path, shape = run.path(kind, position), shapes[position][kind]
            with (
                run.whole_stack([kind], position),
                write_tensor(path, shape, run.real_dtype) as file,
            ):
                for images, ctf in run.images_and_ctf(position, whole_array=True):
                    file.append(_all_correlations(run, images, ctf).numpy())
            progress(n_done, len(todo))


def stitch_log_likelihood_matrices(
    n_templates: int = 0,
    n_image_stacks: int = 0,
    output_directory: str | Path = "output",
    batch_directory: str | Path = "",
    template_directory: str | Path = "",
    opt: bool = False,
    phys: bool = False,
    integrated: bool = False,
    cc: bool = False,
) -> None:
    """Join the results of all structures and stacks into matrices (n_structures, n_images).

    Parameters
    ----------
    n_templates
        Number of structures; 0 for all: those of `template_directory` where it is given, or those
        with results.
    n_image_stacks
        Number of stacks; 0 for all that have results under the first structure.
    output_directory
        Gets a folder ``likelihood_matrix``.
    batch_directory
        Folder in `output_directory` that holds the results; itself if empty.
    template_directory
        Folder of templates.
    opt, integrated, cc
        Which matrices: log-likelihoods at the best pose, integrated ones, cross-correlations.
    phys
        Likelihoods over pixels, which are not computed.

    Raises
    ------
    UsageError
        Where no matrix is chosen, or `phys` is.
    IncompleteOutputError
        Where results are missing; lists all.
    """
    chosen = {"log_likelihood_optimal": opt, "log_likelihood_integrated": integrated}
    kinds = [kind for kind, wanted in (chosen | {"cross_correlation": cc}).items() if wanted]
    if phys:
        msg = "phys: likelihoods are computed in Fourier space only. Choose opt or integrated."
        raise UsageError(msg)
    if not kinds:
        raise UsageError("No matrix is chosen. Set opt, integrated or cc to True.")
    results = LikelihoodLayout(Path(output_directory) / batch_directory)
    if n_templates <= 0:
        in_folder = str(template_directory) not in ("", ".")
        n_templates = (
            len(template_files(template_directory))
            if in_folder
            else max([i + 1 for i in results.templates()], default=0)
        )
    stacks = range(n_image_stacks) if n_image_stacks > 0 else results.stacks(kinds[0], 0)
    if not n_templates or not stacks:
        msg = f"{results.folder} holds no results (template0/…). Run the likelihood first."
        raise IncompleteOutputError(msg)
    paths = {
        kind: [[results.tensor(kind, i, stack) for stack in stacks] for i in range(n_templates)]
        for kind in kinds
    }
    matrices = {kind: _joined(rows) for kind, rows in paths.items()}
    for kind, matrix in matrices.items():
        save_tensor(LikelihoodLayout(Path(output_directory)).matrix(kind), matrix)


@dataclass(frozen=True)
class _BatchSize:
    n_templates: int
    n_images: int
    is_estimated: bool

    def __post_init__(self) -> None:
        if not self.is_estimated and min(self.n_templates, self.n_images) < 1:
            msg = (
                f"n_templates_per_batch is {self.n_templates} and n_images_per_batch "
                f"{self.n_images}; both must be at least 1."
            )
            raise UsageError(msg)


class _Run:
    """One structure and some stacks of images."""

    def __init__(
        self,
        files: LikelihoodFiles,
        params: ImageDescriptor | str | Path,
        displacer: DisplacementSettings,
        template_index: int,
        n_stacks: int,
        batch: _BatchSize,
    ) -> None:
        self.stacks = open_stacks(files.folder_particles)
        self.descriptor = load_descriptor(params)
        self.layout = LikelihoodLayout(files.folder_output)
        self.displacements = displacer.displacements(self.descriptor.cartesian_grid.pixel_size_A)
        self.real_dtype = _REAL[self.descriptor.precision]
        self._index, self._batch = template_index, batch
        problems = _problems_of_index(template_index, len(files.template_files), "template_index")
        if files.i_template not in (0, template_index):
            message = (
                f"i_template was configured as {files.i_template}, but template_index is "
                f"{template_index}"
            )
            problems.append(Problem(message=message, remedy="Give the same number.", kind="usage"))
        raise_problems([*problems, *_problems_of_stacks(n_stacks, self.stacks)])
        self._template_file = files.template_files[template_index]
        self._templates = open_templates(self._template_file, self.descriptor)[0]
        raise_problems(_problems_of_grids(self.descriptor, self._templates, self.stacks))
        self.n_images = [stack.n_images for stack in self.stacks.stack_records[:n_stacks]]

    def prepare(self, kinds: Sequence[str], todo: Sequence[int]) -> None:
        """Write the displacements; remove results of stacks that are to be computed."""
        wanted = torch.tensor(np.stack([self.displacements.x_A, self.displacements.y_A]))
        path = self.layout.displacements
        if path.exists() and not _is_same(path, wanted):
            msg = (
                f"{path} holds other displacements, and results beside it are of these. Use the "
                "same ones, remove the folder, or choose another."
            )
            raise OutputExistsError(msg)
        save_tensor(path, wanted)
        # Else a run that is cut off would leave old results among its own
        for position in todo:
            tensors = (self.path(kind, position) for kind in kinds)
            for old in (self._origin(kinds[0], position), *tensors):
                with writing(old):
                    old.unlink(missing_ok=True)

    def missing(self, shapes: Mapping[int, Mapping[str, tuple[int, ...]]]) -> list[int]:
        """Positions of stacks whose results are not there, or were made of other files."""
        missing, n_others = [], 0
        for position, of_stack in shapes.items():
            paths = {self.path(kind, position): shape for kind, shape in of_stack.items()}
            if not all(_is_whole(path, shape) for path, shape in paths.items()):
                missing.append(position)
            elif not self._is_of_these(tuple(of_stack), position):
                missing.append(position)
                n_others += 1
        if n_others:
            warnings.warn(
                f"{self.layout.folder}: the results of {counted(n_others, 'stack')} are there, but "
                "not known to be of these templates and images: they are computed anew.",
                CryoLikeWarning,
                stacklevel=4,
            )
        return missing

    @contextmanager
    def whole_stack(self, kinds: Sequence[str], position: int) -> Iterator[None]:
        """Record what the results of a stack were made of, once all of them are written."""
        yield
        with whole_file(self._origin(kinds[0], position)) as draft:
            text = self._inputs(position) + "".join(f"{_RESULT}{kind}\n" for kind in kinds)
            draft.write_text(text, encoding="utf-8")

    def _is_of_these(self, kinds: Sequence[str], position: int) -> bool:
        """Whether results are recorded as made of these templates and images."""
        text = _text_of(self._origin(kinds[0], position))
        inputs, *results = text.split(_RESULT)
        recorded = {kind.strip() for kind in results}
        return inputs == self._inputs(position) and recorded.issuperset(kinds)

    def _origin(self, kind: str, position: int) -> Path:
        return self.layout.origin(kind, self._index, self.stacks.stack_records[position].index)

    def _inputs(self, position: int) -> str:
        """Checksums of the templates and of a stack's images and metadata."""
        record = self.stacks.stack_records[position]
        plots = self.stacks.layout.plot_names(record.index)
        files = [file for file in record.files if file.name not in plots]
        lines = [f"{self._templates_checksum}  {self._template_file.name}"]
        return "\n".join([*lines, *(f"{file.xxh3_128}  {file.name}" for file in files), ""])

    @cached_property
    def _templates_checksum(self) -> str:
        return checksum_of_file(self._template_file)

    @property
    def polar(self) -> PolarGrid:
        """Grid of images and templates."""
        return self.descriptor.polar_grid

    def path(self, kind: str, position: int) -> Path:
        """Path of a tensor of one stack."""
        return self.layout.tensor(kind, self._index, self.stacks.stack_records[position].index)

    @property
    def poses_shape(self) -> tuple[int, int, int]:
        """Templates, displacements and in-plane rotations."""
        n_inplanes = self.descriptor.polar_grid.n_inplanes
        return len(self._templates), len(self.displacements), n_inplanes

    @cached_property
    def search(self) -> PoseSearch:
        """Built when it is needed."""
        memory = _MEMORY_BYTES
        if not self._batch.is_estimated:
            # Ten numbers a pose: correlations, likelihoods, and what makes them
            n_poses = self._batch.n_images * self._batch.n_templates * np.prod(self.poses_shape[1:])
            memory = min(memory, float(n_poses) * 10 * self.real_dtype.itemsize)
        return PoseSearch(self._templates, self.displacements, mode="exact", memory_bytes=memory)

    def images_and_ctf(
        self, position: int, *, whole_array: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a stack's images and their CTFs, as many at once as fit."""
        polar = self.descriptor.polar_grid
        images = self.stacks.images(position)
        parameters = CtfParameters.from_frame(self.stacks.frame(position))
        bytes_of_one = 8 * self.descriptor.polar_image_bytes
        if whole_array:
            bytes_of_one += int(np.prod(self.poses_shape)) * self.real_dtype.itemsize
        n_at_once = max(1, int(_MEMORY_BYTES / bytes_of_one))
        if not self._batch.is_estimated:
            n_at_once = min(n_at_once, self._batch.n_images)
        for start in range(0, len(images), n_at_once):
            part = slice(start, start + n_at_once)
            yield (
                images[part],
                ctf_on_polar_grid(
                    parameters.take(part),
                    polar.radius_shells,
                    polar.theta_shell,
                    self.descriptor.cartesian_grid.box_size_A,
                    dtype=self.real_dtype,
                ),
            )


def published_columns(
    scores: Mapping[str, np.ndarray], displacements: Displacements, polar: PolarGrid
) -> dict[str, Tensor]:
    """Make the tensors of the published files of the scores of some images.

    Parameters
    ----------
    scores
        Columns of `PoseScores`, by their names.
    displacements
        That were tried.
    polar
        Grid of the images.

    Returns
    -------
    dict of str to Tensor
        By the kinds of `cryolike.store.likelihood_files`.
    """
    displacement, inplane = scores["displacement"], scores["inplane"]
    columns = {
        "cross_correlation": scores["cross_correlation"],
        "template": scores["view"],
        "displacement_x": displacements.x_A[displacement],
        "displacement_y": displacements.y_A[displacement],
        "inplane_rotation": polar.theta_shell[inplane],
        "log_likelihood_optimal": scores["log_likelihood_optimal"],
        "log_likelihood_integrated": scores["log_likelihood_integrated"],
    }
    return {kind: torch.from_numpy(np.ascontiguousarray(v)) for kind, v in columns.items()}


def write_published_files(
    folder: Path,
    scores: Sequence[Mapping[str, np.ndarray]],
    stacks: Mapping[int, slice],
    displacements: Displacements,
    polar: PolarGrid,
) -> None:
    """Write what `run_likelihood_optimal_pose` and stitching would write of the same scores.

    Parameters
    ----------
    folder
        Output folder.
    scores
        Columns of `PoseScores` of all images, one mapping for each structure.
    stacks
        Which of the images are in each stack, by its number.
    displacements, polar
        As in `published_columns`.

    Raises
    ------
    OutputError
        Where the disk is full or refuses.
    """
    layout = LikelihoodLayout(folder)
    columns = [published_columns(of_structure, displacements, polar) for of_structure in scores]
    save_tensor(
        layout.displacements, torch.tensor(np.stack([displacements.x_A, displacements.y_A]))
    )
    for i, of_structure in enumerate(columns):
        for stack, images in stacks.items():
            for kind, values in of_structure.items():
                save_tensor(layout.tensor(kind, i, stack), values[images].clone())
    for kind in MATRICES:
        save_tensor(layout.matrix(kind), torch.stack([c[kind] for c in columns]))


def _joined_columns(parts: Sequence[PoseScores]) -> dict[str, np.ndarray]:
    """Join the results of batches."""
    names = [column.name for column in fields(PoseScores) if column.name != "poses"]
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}


def _all_correlations(run: _Run, images: Tensor, ctf: Tensor) -> Tensor:
    """Put tiles together: (image, template, displacement, rotation)."""
    whole = torch.empty((len(images), *run.poses_shape), dtype=run.real_dtype)
    for tile in run.search.cross_correlations(images, ctf):
        whole[tile.rows, tile.views] = tile.x.permute(1, 3, 2, 0).to(whole)
    return whole


def _is_same(path: Path, wanted: Tensor) -> bool:
    """Whether a file holds a tensor's values."""
    there = load_tensor(path)
    return there.shape == wanted.shape and torch.allclose(there.to(wanted.dtype), wanted)


def _text_of(path: Path) -> str:
    """Content of a small file of ours; empty where it is missing or not readable."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether a result is there, readable and of the right shape."""
    try:
        return tuple(load_tensor(path).shape) == shape
    except IncompleteOutputError:
        return False


def _joined(rows: list[list[Path]]) -> Tensor:
    """Join tensors of stacks, and the structures below one another."""
    problems: list[Problem] = []
    parts: list[list[Tensor]] = [[] for _ in rows]
    for i, paths in enumerate(rows):
        for position, path in enumerate(paths):
            try:
                part = load_tensor(path)
            except IncompleteOutputError as error:
                problems += error.problems
                continue
            parts[i].append(part)
            first = parts[0][position] if position < len(parts[0]) else part
            if part.ndim != 1 or part.shape != first.shape:
                message = (
                    f"{path} has shape {tuple(part.shape)}, but {paths[position].name} of "
                    f"template0 {tuple(first.shape)}"
                )
                problems.append(Problem(message=message))
    if problems:
        raise IncompleteOutputError(problems)
    return torch.stack([torch.cat(of_structure) for of_structure in parts])


def _problems_of_index(index: int, n: int, name: str) -> list[Problem]:
    if 0 <= index < n:
        return []
    message = f"{name} is {index}, but the list of templates has {counted(n, 'file')}"
    return [Problem(message=message, remedy="They count from 0.", kind="usage")]


def _problems_of_stacks(n_stacks: int, stacks: StackSet) -> list[Problem]:
    if 1 <= n_stacks <= stacks.n_stacks:
        return []
    message = f"n_stacks is {n_stacks}, but there are {counted(stacks.n_stacks, 'stack')} of images"
    remedy = f"Give a number from 1 to {stacks.n_stacks}."
    return [Problem(message=message, remedy=remedy, file=str(stacks.layout.folder), kind="usage")]


def _problems_of_grids(
    descriptor: ImageDescriptor, templates: TemplateSet, stacks: StackSet
) -> list[Problem]:
    """Say how templates and particles differ, which both have to be as the descriptor says."""
    places = grid_differences(templates.descriptor, stacks.descriptor)
    places += [
        f"precision: {descriptor.precision} of the descriptor, {there.precision} of the {name}"
        for name, there in (("templates", templates.descriptor), ("images", stacks.descriptor))
        if there.precision != descriptor.precision
    ]
    if not places:
        return []
    return [
        Problem(
            message="templates and particles are on different grids",
            places=places,
            remedy="Make templates and convert particles with the same descriptor, and give it.",
            file=str(stacks.layout.folder),
            kind="usage",
        )
    ]
