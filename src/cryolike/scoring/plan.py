"""What scoring a set will do, decided and checked before any image is compared."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from cryolike.conversion.plan import (
    ConversionPlan,
    ConvertOptions,
    Policy,
    bytes_in_words,
    plan_conversion,
)
from cryolike.descriptor import ImageDescriptor
from cryolike.errors import (
    CryoLikeError,
    CryoLikeWarning,
    LazyPlaces,
    Notice,
    Problem,
    UsageError,
    counted,
    raise_problems,
)
from cryolike.io.structure import AtomSettings, read_structure
from cryolike.particles import ParticleTable
from cryolike.physics.likelihood import CountedValues
from cryolike.physics.views import ViewingDirections
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.poses import Poses
from cryolike.scoring.search import SearchMode
from cryolike.scoring.sources import (
    ConvertedSource,
    ImageSource,
    SetSource,
    source_problems,
    zero_ctf_problems,
)
from cryolike.store import StackSet
from cryolike.store.manifest import InputRecord
from cryolike.store.tiles import WorkHeader
from cryolike.templates import (
    TemplateSet,
    check_structures,
    grid_differences,
    make_templates,
    structure_names,
)

__all__ = ["Candidate", "ScoreOptions", "ScorePlan", "plan_scoring", "templates_of"]

AtomModel = Literal["beads", "electron"]

_OF_TEMPLATES = (
    "viewing_distance",
    "atom_radii",
    "atom_selection",
    "use_protein_residue_model",
    "atom_shape",
)
"""What a descriptor says of templates and not of images."""

_BLOCK_BYTES = 24 * 10**6
"""Polar images of a block: what is lost at most when a run is killed."""

_N_BLOCK_LEAST, _N_BLOCK_MOST = 8, 256

_LARGEST_SHARE_OF_MEMORY = 0.6
"""Of the machine's, that the templates of a structure may take; what is made of them needs more."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How to score.

    Parameters
    ----------
    search
        'fast': everywhere at low resolution first, then in full where an image may be, which is
        everywhere for very noisy images; 'exact': every view, in-plane angle and displacement, for
        which GPUs are better.
    shift_max_px, shift_step_px
        Displacements are tried from −`shift_max_px` to +`shift_max_px` pixels along x and y, in
        steps of `shift_step_px`.
    shift_sd_A
        Standard deviation in Å of a Gaussian prior over displacements along x and y; None for one
        that is flat over those tried.
    viewing_distance
        Spacing of viewing directions on the unit sphere; None for the descriptor's.
    atom_model
        'beads', with the descriptor's selection, radii and shape; or 'electron': every selected
        atom with its electron scattering factors, B-factor and occupancy.
    local_rad
        Search only viewing directions within this angle of those in the metadata, and displacements
        around theirs; None to search everywhere. Poses whose angles are all zero count as none:
        these images are searched everywhere.
    refine
        Whether to give poses between those of the grids.
    n_compared
        'disc': the values compared are those of the disc of frequencies that the polar grid covers;
        'box': all pixels, as published.
    memory_bytes
        What the comparison may use besides templates and images.
    on_bad_image
        What to do with images that are blank, not finite, or have a CTF that is zero everywhere:
        'error', or 'skip' and list them.
    plots
        Whether to draw.
    published
        Whether to write the files of the published functions, too.
    """

    search: SearchMode = "fast"
    shift_max_px: float = 4.0
    shift_step_px: float = 1.0
    shift_sd_A: float | None = None
    viewing_distance: float | None = None
    atom_model: AtomModel = "beads"
    local_rad: float | None = None
    refine: bool = False
    n_compared: CountedValues = "disc"
    memory_bytes: float = 4e9
    on_bad_image: Policy = "error"
    plots: bool = True
    published: bool = False

    def __post_init__(self) -> None:
        faults = []
        if not 0 <= self.shift_max_px < np.inf:
            faults.append(f"--shift-max {self.shift_max_px:g}: must be 0 or more pixels.")
        elif not 0 < self.shift_step_px < np.inf:
            faults.append(f"--shift-step {self.shift_step_px:g}: must be a positive number.")
        elif abs(self.n_steps * self.shift_step_px - self.shift_max_px) > 1e-6:
            faults.append(
                f"--shift-step {self.shift_step_px:g} does not divide --shift-max "
                f"{self.shift_max_px:g}: choose one that does, so that all steps are equal."
            )
        elif (2 * self.n_steps + 1) ** 2 > _MOST_SHIFTS:
            faults.append(
                f"--shift-step {self.shift_step_px:g} with --shift-max {self.shift_max_px:g} makes "
                f"{(2 * self.n_steps + 1) ** 2:,} shifts: choose larger steps, or --refine for "
                "poses between those of the grid."
            )
        if self.shift_sd_A is not None and not 0 < self.shift_sd_A < np.inf:
            faults.append(f"--shift-sd {self.shift_sd_A:g}: must be a positive number of Å.")
        if self.viewing_distance is not None and not 0 < self.viewing_distance < np.inf:
            faults.append(f"viewing distance {self.viewing_distance:g}: must be positive.")
        if self.local_rad is not None and not 0 < self.local_rad <= np.pi:
            faults.append("--local: must be above 0 and at most 180 degrees.")
        if not self.memory_bytes >= _LEAST_MEMORY_BYTES:
            faults.append(
                f"--memory {self.memory_bytes:g} bytes: at least "
                f"{_LEAST_MEMORY_BYTES / 1e6:g} MB are needed."
            )
        if self.published and self.local_rad is not None:
            faults.append(
                "--published holds poses of one grid of shifts for all images, but --local tries "
                "shifts around those of each: leave one out."
            )
        for name, allowed in (
            ("search", ("fast", "exact")),
            ("atom_model", ("beads", "electron")),
            ("n_compared", ("disc", "box")),
            ("on_bad_image", ("error", "skip")),
        ):
            if getattr(self, name) not in allowed:
                faults.append(
                    f"{name} is {getattr(self, name)!r}; it must be {' or '.join(allowed)}."
                )
        if faults:
            raise UsageError([Problem(message=fault, kind="usage") for fault in faults])

    def atoms(self, descriptor: ImageDescriptor) -> AtomSettings:
        """How atomic models become something that scatters."""
        return AtomSettings.from_descriptor(descriptor, atom_model=self.atom_model)

    @property
    def n_steps(self) -> int:
        """Steps from zero to the largest displacement."""
        return round(self.shift_max_px / self.shift_step_px)


_LEAST_MEMORY_BYTES = 50e6
_MOST_SHIFTS = 10**6


@dataclass(frozen=True)
class Candidate:
    """A structure that might explain the images.

    Parameters
    ----------
    name
        Unique among the structures of a run.
    path
        Of its file.
    """

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True, eq=False)
class ScorePlan:
    """Everything that scoring a set will do.

    Parameters
    ----------
    source
        Where images come from.
    structures
        What they are compared with.
    descriptor
        Grids of images and templates, and settings of templates.
    views, displacements
        Poses that are tried, at all in-plane angles of the polar grid.
    options
        As given.
    notices
        Defaults applied and doubtful values accepted.
    """

    source: ImageSource
    structures: tuple[Candidate, ...]
    descriptor: ImageDescriptor
    views: ViewingDirections
    displacements: Displacements
    options: ScoreOptions
    notices: tuple[Notice, ...] = ()

    @property
    def n_images(self) -> int:
        """Images that are compared if none is unusable."""
        return len(self.source.table)

    @property
    def n_poses(self) -> int:
        """Poses in which each image is compared with each structure."""
        return len(self.views) * len(self.displacements) * self.descriptor.polar_grid.n_inplanes

    @property
    def rarest_pose_nats(self) -> float:
        """−log of the smallest prior probability of a pose."""
        of_view = -np.log(self.views.weights).max()
        n_angles = self.descriptor.polar_grid.n_inplanes
        return float(of_view - self.displacements.log_prior.min() + np.log(n_angles))

    @property
    def n_template_bytes(self) -> int:
        """Bytes of the templates of one structure."""
        return len(self.views) * self.descriptor.polar_image_bytes

    @property
    def atoms(self) -> AtomSettings:
        """How atomic models become something that scatters."""
        return self.options.atoms(self.descriptor)

    @cached_property
    def blocks(self) -> tuple[range, ...]:
        """Positions in the table of the images that are scored at a time."""
        n_fit = _BLOCK_BYTES // self.descriptor.polar_image_bytes
        n_at_once = int(np.clip(n_fit, _N_BLOCK_LEAST, _N_BLOCK_MOST))
        starts = range(0, self.n_images, n_at_once)
        return tuple(range(start, min(start + n_at_once, self.n_images)) for start in starts)

    def describe(self) -> str:
        """Say in a few lines what will be done."""
        names = ", ".join(structure.name for structure in self.structures)
        px = self.options
        prior = "flat prior" if px.shift_sd_A is None else f"prior of {px.shift_sd_A:g} Å"
        spacing_deg = np.rad2deg(self.descriptor.viewing_distance)
        return "\n".join(
            [
                f"images       {self.n_images:,}, {len(self.source.rejects):,} skipped",
                f"structures   {counted(len(self.structures), 'structure')}: {names}",
                self.descriptor.describe_grids(),
                f"views        {len(self.views):,}, {spacing_deg:.3g}° apart "
                f"({bytes_in_words(self.n_template_bytes)} of templates for each structure)",
                f"shifts       {len(self.displacements):,}, to ±{px.shift_max_px:g} pixels in "
                f"steps of {px.shift_step_px:g}, {prior}",
                self._describe_search(),
            ]
        )

    def _describe_search(self) -> str:
        if self.options.local_rad is not None:
            within = f"within {np.rad2deg(self.options.local_rad):.3g}° of the metadata's poses"
            return f"search       {within}"
        return (
            f"search       {self.options.search}: {self.n_poses:.3g} poses for each image and "
            "structure"
        )

    def near(self, rows: np.ndarray) -> Poses | None:
        """Poses that the metadata gives to rows of the source's table, if these are to be used.

        Poses whose angles are all zero are none: they are not a number.
        """
        table = self.source.table
        angles = (table.rot_rad, table.tilt_rad, table.psi_rad)
        rot, tilt, psi = (None if angle is None else angle[rows] for angle in angles)
        if self.options.local_rad is None or rot is None or tilt is None:
            return None
        psi = np.zeros(len(rows)) if psi is None else psi
        is_none = _has_no_angles(table)[rows]
        shifts = (
            np.zeros(len(rows)) if origin is None else -origin[rows]
            for origin in (table.origin_x_A, table.origin_y_A)
        )
        columns = (np.where(is_none, np.nan, values) for values in (rot, tilt, psi, *shifts))
        names = ("rot_rad", "tilt_rad", "psi_rad", "shift_x_A", "shift_y_A")
        return Poses(**dict(zip(names, columns, strict=True)))

    def header(self) -> WorkHeader:
        """Tell what decides over the results: whether a run can be resumed."""
        options = asdict(self.options)
        # These change nothing in what is computed for an image
        for name in ("on_bad_image", "plots", "published", "memory_bytes"):
            del options[name]
        settings = {
            "program": f"cryolike {version('cryolike')}",
            "images": self.source.settings(),
            "structures": {s.name: str(s.path.absolute()) for s in self.structures},
            "templates": {
                key: self.descriptor.to_arrays()[key].tolist()
                for key in (
                    "viewing_distance",
                    "atom_radii",
                    "atom_selection",
                    "atom_shape",
                    "use_protein_residue_model",
                )
            },
            "options": options,
            "block": len(self.blocks[0]),
        }
        paths = [*self.source.input_paths, *(structure.path for structure in self.structures)]
        inputs = tuple(InputRecord.of_path(path) for path in dict.fromkeys(map(str, paths)))
        return WorkHeader(settings=settings, inputs=inputs)


def plan_scoring(
    particles: ParticleTable | ConversionPlan | StackSet,
    structures: Sequence[str | Path],
    options: ScoreOptions | None = None,
    descriptor: ImageDescriptor | None = None,
    conversion: ConvertOptions | None = None,
) -> ScorePlan:
    """Decide and check everything before an image is compared.

    Parameters
    ----------
    particles
        A set whose images are converted on the fly, as a reader returned it or planned; or a
        converted set.
    structures
        Files of maps and atomic models.
    options
        How to score.
    descriptor
        Grids of the images, and settings of templates; None to take those of the set. For images
        that are converted already, or planned, the grids must be theirs.
    conversion
        How to convert the images of a table.

    Returns
    -------
    ScorePlan
        To be given to `cryolike.scoring.run.score_particles`.

    Raises
    ------
    InputError
        One error that lists everything wrong with images and structures.
    UsageError
        Where options do not fit the images.
    """
    options = options or ScoreOptions()
    source, problems = _source(particles, descriptor, conversion)
    chosen = descriptor or (None if source is None else source.descriptor)
    if chosen is not None and options.viewing_distance is not None:
        chosen = replace(chosen, viewing_distance=options.viewing_distance)
    problems += _structure_problems(structures, options, chosen)
    if source is not None and chosen is not None:
        problems += _grid_problems(chosen, source.descriptor)
        problems += _shift_problems(options, chosen)
        problems += _local_problems(options, source.table, chosen)
        problems += _template_problems(chosen)
        if options.on_bad_image == "error":
            problems += zero_ctf_problems(source)
    raise_problems(problems)
    if source is None or chosen is None:
        raise UsageError("there are no images to score.")
    paths = [Path(path) for path in structures]
    n_along_axis = 2 * options.n_steps + 1
    return ScorePlan(
        source=source,
        structures=tuple(map(Candidate, structure_names(paths), paths)),
        descriptor=chosen,
        views=ViewingDirections.of_spacing(chosen.viewing_distance),
        displacements=Displacements.grid(
            options.shift_max_px,
            n_along_axis,
            n_along_axis,
            chosen.cartesian_grid.pixel_size_A,
            options.shift_sd_A,
        ),
        options=options,
        notices=source.plan.notices if isinstance(source, SetSource) else (),
    )


def templates_of(
    plan: ScorePlan,
    structure: Candidate,
    *,
    views: ViewingDirections | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TemplateSet:
    """Make templates of one of the structures.

    Parameters
    ----------
    plan
        That it is of.
    structure
        One of the plan's.
    views
        Viewing directions; the plan's if None.
    progress
        Called with templates done and their number.

    Returns
    -------
    TemplateSet
        In memory.
    """
    with warnings.catch_warnings():
        # The plan has told of what is doubtful
        warnings.simplefilter("ignore", CryoLikeWarning)
        return make_templates(
            read_structure(structure.path, plan.atoms, name=structure.name),
            plan.descriptor,
            views=plan.views if views is None else views,
            memory_bytes=plan.options.memory_bytes,
            progress=progress,
        )


def _source(
    particles: ParticleTable | ConversionPlan | StackSet,
    descriptor: ImageDescriptor | None,
    conversion: ConvertOptions | None,
) -> tuple[ImageSource | None, list[Problem]]:
    """Find where images come from, or what is wrong with them."""
    if isinstance(particles, ConversionPlan):
        return SetSource(plan=particles), []
    try:
        if isinstance(particles, StackSet):
            source = ConvertedSource(stacks=particles)
            return (None, problems) if (problems := source_problems(source)) else (source, [])
        return SetSource(plan=plan_conversion(particles, descriptor, conversion)), []
    except CryoLikeError as error:
        return None, list(error.problems)


def _structure_problems(
    paths: Sequence[str | Path], options: ScoreOptions, descriptor: ImageDescriptor | None
) -> list[Problem]:
    """Read all structures, and list what is wrong with them."""
    atoms = None if descriptor is None else options.atoms(descriptor)
    try:
        check_structures(paths, descriptor, atoms, memory_bytes=options.memory_bytes)
    except CryoLikeError as error:
        return list(error.problems)
    return []


def _grid_problems(templates: ImageDescriptor, images: ImageDescriptor) -> list[Problem]:
    """Say how the grids of images and templates differ."""
    differing = grid_differences(templates, images)
    if templates.precision != images.precision:
        differing.append(
            f"precision: {templates.precision} of the templates, {images.precision} of the images"
        )
    if not differing:
        return []
    return [
        Problem(
            message="the grids of the descriptor and of the images differ",
            places=differing,
            remedy="Leave --params out, or convert the images with it.",
            kind="usage",
        )
    ]


def _shift_problems(options: ScoreOptions, descriptor: ImageDescriptor) -> list[Problem]:
    most = descriptor.cartesian_grid.side_px / 2
    if options.shift_max_px <= most:
        return []
    return [
        Problem(
            message=f"shifts to ±{options.shift_max_px:g} pixels go beyond the box, which has "
            f"{most:g} to either side",
            remedy="Choose a smaller --shift-max.",
            kind="usage",
        )
    ]


def _local_problems(
    options: ScoreOptions, table: ParticleTable, descriptor: ImageDescriptor
) -> list[Problem]:
    if options.local_rad is None:
        return []
    if table.rot_rad is None or table.tilt_rad is None or not table.has_poses:
        message = (
            "a local search was asked for, but the set has no viewing directions (rlnAngleRot and "
            "rlnAngleTilt, or alignments3D/pose), or all angles are zero"
        )
        return [Problem(message=message, remedy="Leave --local out.", kind="usage")]
    grid = descriptor.cartesian_grid
    origins_A = [o for o in (table.origin_x_A, table.origin_y_A) if o is not None]
    farthest_A = np.max(np.abs(origins_A), axis=0) if origins_A else np.zeros(len(table))
    is_far = farthest_A + options.shift_max_px * grid.pixel_size_A > grid.box_size_A / 2
    rows = np.flatnonzero(is_far & ~_has_no_angles(table))
    if not rows.size:
        return []
    return [
        Problem(
            message=f"a local search around the origins of {counted(len(rows), 'image')} goes "
            f"beyond the box, which has {grid.box_size_A / 2:g} Å to either side",
            file=", ".join(table.metadata_files),
            places=LazyPlaces(
                len(rows),
                lambda i: f"row {table.source_row[rows[i]]}: origin {farthest_A[rows[i]]:g} Å away",
            ),
            remedy="Correct these origins, leave the rows out, choose a smaller --shift-max, or "
            "leave --local out.",
        )
    ]


def _has_no_angles(table: ParticleTable) -> np.ndarray:
    """Which rows have angles that are all zero, which is no number."""
    angles = (table.rot_rad, table.tilt_rad, table.psi_rad)
    found: np.ndarray = np.all([angle == 0 for angle in angles if angle is not None], axis=0)
    return found


def _template_problems(descriptor: ImageDescriptor) -> list[Problem]:
    """Refuse more templates than the machine has memory for."""
    try:
        n_views = len(ViewingDirections.of_spacing(descriptor.viewing_distance))
    except UsageError as error:
        remedy = "Choose a larger --view-spacing, or --params with a larger viewing distance."
        return [replace(problem, kind="usage", remedy=remedy) for problem in error.problems]
    needed = n_views * descriptor.polar_image_bytes
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed <= _LARGEST_SHARE_OF_MEMORY * present:
        return []
    return [
        Problem(
            message=f"{n_views:,} templates take {bytes_in_words(needed)} of the "
            f"{bytes_in_words(present)} of memory that this machine has",
            remedy="Choose a larger --view-spacing, or --params with fewer pixels "
            "(downsampling) or a smaller resolution factor.",
            kind="usage",
        )
    ]
