"""What a conversion will do, decided and checked before any image is read.

A `ConversionPlan` is a pure value: it can be made, printed and compared without writing
anything. Making one reads the headers of all stacks and reports everything wrong at once.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cryolike.descriptor import PIXEL_SIZE_TOLERANCE, ImageDescriptor, Precision
from cryolike.errors import (
    InputError,
    LazyPlaces,
    Notice,
    Problem,
    StackError,
    UsageError,
    counted,
    raise_problems,
)
from cryolike.io.mrc_header import StackHeader, read_stack_header
from cryolike.io.resolve import resolve_image_files
from cryolike.particles import UNNUMBERED_IMAGE, ParticleTable
from cryolike.physics.preprocess import DownsampleType, check_downsampling, indivisible_box

__all__ = [
    "ConversionPlan",
    "ConvertOptions",
    "PlannedStack",
    "Policy",
    "Survey",
    "plan_conversion",
    "survey",
]

Policy = Literal["error", "skip"]
Contrast = Literal["recorded", "keep", "invert"]

_HEADER_READERS = 8
"""Headers read at once: what counts on a network disk is how long each one takes to answer."""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """How to convert.

    Parameters
    ----------
    folder
        Where the stacks are; empty to use the paths in the metadata.
    batch_size
        Images in an output stack.
    pixel_size_A
        Of the images as they are on disk, where the caller knows better than the metadata.
    downsample_factor, downsample_type
        Merge factor×factor pixels, see `cryolike.physics.preprocess.DownsampleType`.
    contrast
        'recorded': multiply by the sign that the metadata records; 'keep': leave the pixels as
        they are; 'invert': multiply by −1.
    n_stacks_max
        Stop after that many stacks; −1 for all.
    on_bad_row, on_bad_image
        'error', or 'skip' and list them.
    plots
        Whether to draw each stack.
    """

    folder: str = ""
    batch_size: int = 1024
    pixel_size_A: float | None = None
    downsample_factor: int = 1
    downsample_type: DownsampleType = "mean"
    contrast: Contrast = "recorded"
    n_stacks_max: int = -1
    on_bad_row: Policy = "error"
    on_bad_image: Policy = "error"
    plots: bool = True

    def __post_init__(self) -> None:
        faults = []
        for name in ("batch_size", "downsample_factor", "n_stacks_max"):
            try:
                # NumPy's integers are as good, but are no JSON
                object.__setattr__(self, name, operator.index(getattr(self, name)))
            except TypeError:
                faults.append(f"{name} is {getattr(self, name)!r}; it must be a whole number.")
        if faults:
            raise UsageError("\n".join(faults))
        if self.batch_size < 1:
            faults.append(f"batch_size is {self.batch_size}; it must be at least 1.")
        if self.downsample_factor < 1:
            faults.append(f"downsample_factor is {self.downsample_factor}; it must be at least 1.")
        if self.pixel_size_A is not None and not 0 < self.pixel_size_A < np.inf:
            faults.append(f"pixel_size is {self.pixel_size_A}; it must be a positive number of Å.")
        for name, allowed in (
            ("contrast", ("recorded", "keep", "invert")),
            ("on_bad_row", ("error", "skip")),
            ("on_bad_image", ("error", "skip")),
        ):
            if getattr(self, name) not in allowed:
                faults.append(
                    f"{name} is {getattr(self, name)!r}; it must be {' or '.join(allowed)}."
                )
        if faults:
            raise UsageError("\n".join(faults))


@dataclass(frozen=True, kw_only=True)
class PlannedStack:
    """An output stack before it is made: rows `start` to `stop` (half open) of the table."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """A table, the stacks it names, and everything wrong with either.

    Parameters
    ----------
    table
        With `image_index` set for names without a number.
    image_paths
        One for each of the table's `image_files`; empty where it was not found.
    headers
        Likewise; None where it was not found or cannot be read.
    problems, notices
        Of metadata, paths and headers.
    """

    table: ParticleTable
    image_paths: tuple[str, ...]
    headers: tuple[StackHeader | None, ...]
    problems: tuple[Problem, ...]
    notices: tuple[Notice, ...]

    @cached_property
    def box_of_row(self) -> np.ndarray:
        """Box of each row's stack, pixels; 0 where it is unknown."""
        boxes = np.array([h.box_px if h else 0 for h in self.headers], dtype=np.int64)
        return np.asarray(boxes[self.table.image_file_index])

    @cached_property
    def header_pixel_size_A(self) -> np.ndarray:
        """Pixel size that each stack's header gives; NaN where it does not, or says 1 Å.

        Writers that do not know the pixel size write exactly 1.
        """
        sizes = np.array([h.pixel_size_A if h else np.nan for h in self.headers], dtype=np.float64)
        sizes[sizes == 1] = np.nan
        return sizes


@dataclass(frozen=True, kw_only=True, eq=False)
class ConversionPlan:
    """Everything that a conversion will do.

    Parameters
    ----------
    table
        Rows to convert, in output order.
    descriptor
        Of the images after downsampling.
    options
        As given.
    image_paths, headers
        One for each of the table's `image_files`.
    stacks
        What will be written.
    n_rows_in
        Rows chosen, those that are skipped included.
    rejects
        Rows skipped: (metadata file, source row, image name, reason).
    notices
        Defaults applied and doubtful values accepted.
    """

    table: ParticleTable
    descriptor: ImageDescriptor
    options: ConvertOptions
    image_paths: tuple[str, ...]
    headers: tuple[StackHeader, ...]
    stacks: tuple[PlannedStack, ...]
    n_rows_in: int
    rejects: tuple[tuple[int, int, str, str], ...]
    notices: tuple[Notice, ...]

    @property
    def stopped_early(self) -> bool:
        """Whether `n_stacks_max` leaves rows out."""
        return self.n_images < len(self.table)

    @property
    def n_images(self) -> int:
        """Images that will be written if none is unusable."""
        return sum(stack.stop - stack.start for stack in self.stacks)

    @property
    def n_bytes(self) -> int:
        """Bytes that will be written, about."""
        return self.n_images * (self.descriptor.polar_image_bytes + 512)

    @property
    def input_paths(self) -> list[str]:
        """Every file the plan depends on: metadata first, then stacks."""
        return [*self.table.metadata_files, *dict.fromkeys(self.image_paths)]

    def describe(self) -> str:
        """Say in a few lines what will be done."""
        early = " (stops early, as asked)" if self.stopped_early else ""
        return "\n".join(
            [
                f"rows         {self.n_rows_in:,} chosen, {len(self.rejects):,} skipped",
                f"reads        {counted(len(set(self.image_paths)), 'stack')} of "
                f"{self.headers[0].box_px if self.headers else 0} pixels",
                f"writes       {counted(self.n_images, 'image')} in "
                f"{counted(len(self.stacks), 'stack')}, "
                f"{bytes_in_words(self.n_bytes)}{early}",
                self.descriptor.describe_grids(),
            ]
        )


def survey(table: ParticleTable, folder: str = "") -> Survey:
    """Find the stacks of a table and check rows against their headers.

    Parameters
    ----------
    table
        As a reader returned it.
    folder
        Where the stacks are; empty to use the paths in the metadata.

    Returns
    -------
    Survey
        Nothing is raised: everything wrong is in its `problems`.
    """
    resolved = resolve_image_files(table, folder)
    headers, problems = _read_headers(table, resolved.paths)
    n_images = np.array([h.n_images if h else -1 for h in headers], dtype=np.int64)
    n_of_row = n_images[table.image_file_index] if len(table) else n_images[:0]
    if table.kind != "paired":  # there the reader has compared rows with images
        problems += _index_problems(table, n_of_row)
    bare = table.image_index == UNNUMBERED_IMAGE
    if bare.any():
        table = replace(table, image_index=np.where(bare, 0, table.image_index))
    found = Survey(
        table=table,
        image_paths=tuple("" if path is None else str(path.absolute()) for path in resolved.paths),
        headers=headers,
        problems=(*table.problems, *resolved.problems, *problems),
        notices=(*table.notices, *resolved.notices, *_header_notices(headers)),
    )
    return replace(found, notices=(*found.notices, *_row_notices(found)))


def plan_conversion(
    table: ParticleTable,
    descriptor: ImageDescriptor | None = None,
    options: ConvertOptions | None = None,
) -> ConversionPlan:
    """Decide and check everything before an image is read.

    Parameters
    ----------
    table
        Rows to convert.
    descriptor
        Of the images after downsampling; None to take box and pixel size from the set, single
        precision and the default polar grid.
    options
        How to convert.

    Returns
    -------
    ConversionPlan
        To be given to `cryolike.conversion.convert`.

    Raises
    ------
    InputError
        One error that lists everything wrong with metadata, paths and headers.
    UsageError
        Where options do not fit the images.
    """
    options = options or ConvertOptions()
    surveyed = survey(table, options.folder)
    problems = list(surveyed.problems)
    is_given = descriptor is not None
    try:
        _check_factor(surveyed, options)
        descriptor = descriptor or _descriptor_of_set(surveyed, options)
        if descriptor is not None:
            problems += _box_problems(surveyed, descriptor, options, is_given=is_given)
            problems += _pixel_size_problems(surveyed, descriptor, options, is_given=is_given)
    except UsageError as error:
        remedy = "Choose a downsampling factor that fits the images."
        problems += [replace(p, kind="usage", remedy=remedy) for p in error.problems]
    kept, rejects = _skip_rows(surveyed.table, problems, options.on_bad_row)
    if descriptor is None:
        raise UsageError(_no_pixel_size(surveyed.table))
    table, paths, headers = _of_rows(surveyed, kept)
    notices = (*surveyed.notices, *_pixel_size_notices(surveyed, descriptor, options))
    return ConversionPlan(
        table=table,
        descriptor=descriptor,
        options=options,
        image_paths=paths,
        headers=headers,
        stacks=_cut(table, options),
        n_rows_in=len(surveyed.table),
        rejects=rejects,
        notices=tuple(dict.fromkeys(notices)),
    )


def _read_headers(
    table: ParticleTable, paths: Sequence[Path | None]
) -> tuple[tuple[StackHeader | None, ...], list[Problem]]:
    """Headers of all stacks, and what is wrong with them as problems of the rows they hold."""

    def read(path: Path | None) -> StackHeader | InputError | None:
        try:
            return read_stack_header(path) if path else None
        except InputError as error:
            return error

    with ThreadPoolExecutor(_HEADER_READERS) as pool:
        results = list(pool.map(read, paths))
    errors = [result for result in results if isinstance(result, InputError)]
    is_unreadable = np.array([isinstance(result, InputError) for result in results], dtype=bool)
    problems = [
        replace(
            problem,
            rows=rows,
            reason=problem.message,
            message=f"{problem.message} ({rows.size:,} of {len(table):,} rows)",
        )
        for error, rows in zip(
            errors, _rows_of_groups(table.image_file_index, is_unreadable), strict=True
        )
        for problem in error.problems
    ]
    return tuple(h if isinstance(h, StackHeader) else None for h in results), problems


def _index_problems(table: ParticleTable, n_of_row: np.ndarray) -> list[Problem]:
    """Rows that name an image their stack does not have."""
    known = n_of_row >= 0
    past = np.flatnonzero(known & (table.image_index >= n_of_row))
    unnumbered = np.flatnonzero(known & (table.image_index == UNNUMBERED_IMAGE) & (n_of_row != 1))
    first = 0 if table.kind == "cryosparc" else 1
    files = ", ".join(table.metadata_files)

    def past_the_end(i: int) -> str:
        row = int(past[i])
        stack = table.image_files[int(table.image_file_index[row])]
        return (
            f"row {table.source_row[row]}: image {table.image_index[row] + first:,} of {stack}, "
            f"which has {n_of_row[row]:,} (counted from {first})"
        )

    def without_number(i: int) -> str:
        row = int(unnumbered[i])
        stack = table.image_files[int(table.image_file_index[row])]
        return f"row {table.source_row[row]}: {stack}, which has {n_of_row[row]:,} images"

    problems = []
    if past.size:
        problems.append(
            Problem(
                message="rows name images past the end of their stack "
                f"({past.size:,} of {len(table):,} rows)",
                reason="image number past the end of its stack",
                remedy="Was the stack extracted again after this file was written?",
                file=files,
                rows=past,
                places=LazyPlaces(past.size, past_the_end),
            )
        )
    if unnumbered.size:
        problems.append(
            Problem(
                message="rows name a stack of several images without saying which one "
                f"({unnumbered.size:,} of {len(table):,} rows)",
                reason="no image number",
                remedy="Write NUMBER@STACK; for rows in the order of the stack use "
                "`cryolike convert paired`.",
                file=files,
                rows=unnumbered,
                places=LazyPlaces(unnumbered.size, without_number),
            )
        )
    return problems


def _header_notices(headers: Iterable[StackHeader | None]) -> list[Notice]:
    """One notice for each kind of oddity, with the number of stacks that have it."""
    of_kind: defaultdict[str, list[Notice]] = defaultdict(list)
    for header in headers:
        for notice in header.notices if header else ():
            # What follows the colon are figures of the one stack
            of_kind[notice.message.partition(":")[0]].append(notice)
    return [
        Notice(f"{counted(len(same), 'stack')}: {same[0].message}", same[0].level)
        for same in of_kind.values()
    ]


def _row_notices(surveyed: Survey) -> list[Notice]:
    table = surveyed.table
    noted = []
    if table.box_px is not None:
        known = (surveyed.box_of_row > 0) & (table.box_px > 0)
        n_other = int((known & (table.box_px != surveyed.box_of_row)).sum())
        if n_other:
            noted.append(
                Notice(
                    f"The metadata's image size differs from the stack's in {n_other:,} of "
                    f"{len(table):,} rows: the stacks count."
                )
            )
    # An MRC header counts images in 31 bits; what cannot be there is no repeat either
    there = (table.image_index >= 0) & (table.image_index < 2**31)
    index, file_index = table.image_index[there], table.image_file_index[there]
    image = np.sort(file_index * (index.max(initial=0) + 1) + index)
    if n_repeated := int((np.diff(image) == 0).sum()):
        noted.append(
            Notice(
                f"{n_repeated:,} rows repeat an image that another row has; all are kept.", "note"
            )
        )
    return noted


def _known_pixel_size(surveyed: Survey, options: ConvertOptions) -> float | None:
    """Pixel size of the images on disk: the caller's, the metadata's, or the headers'."""
    if options.pixel_size_A is not None:
        return options.pixel_size_A
    for sizes in (surveyed.table.pixel_size_A, surveyed.header_pixel_size_A):
        known = sizes[np.isfinite(sizes) & (sizes > 0)]
        if known.size:
            values, counts = np.unique(known, return_counts=True)
            return float(values[np.argmax(counts)])
    return None


def _descriptor_of_set(surveyed: Survey, options: ConvertOptions) -> ImageDescriptor | None:
    """Default descriptor for the box and pixel size that most rows have."""
    boxes = surveyed.box_of_row[surveyed.box_of_row > 0]
    pixel_size_A = _known_pixel_size(surveyed, options)
    if boxes.size == 0 or pixel_size_A is None:
        return None
    values, counts = np.unique(boxes, return_counts=True)
    box = int(values[np.argmax(counts)])
    return ImageDescriptor.from_individual_values(
        box // options.downsample_factor,
        pixel_size_A * options.downsample_factor,
        Precision.SINGLE,
    )


def _differs(a: Any, b: Any) -> Any:
    with np.errstate(invalid="ignore"):  # infinite minus infinite
        return np.abs(np.asarray(a) - b) >= PIXEL_SIZE_TOLERANCE * np.abs(b)


def _no_pixel_size(table: ParticleTable) -> Problem:
    return Problem(
        message="neither the metadata nor the headers of the stacks give a pixel size",
        remedy="Give it (--pixel-size, pixel_size), or a descriptor (--params).",
        file=", ".join(table.metadata_files),
        kind="usage",
    )


def _distinct(values: np.ndarray) -> np.ndarray:
    """Distinct values, ascending, of many small integers; far quicker than by sorting them."""
    return np.flatnonzero(np.bincount(values))


def _check_factor(surveyed: Survey, options: ConvertOptions) -> None:
    """Refuse a factor that fits no box; where it fits some, the others are at fault."""
    factor, boxes = options.downsample_factor, _distinct(surveyed.box_of_row)
    fitting = [box for box in boxes.tolist() if box and box % factor == 0]
    box = fitting[0] if fitting else int(boxes.max(initial=0))
    check_downsampling(box, factor, options.downsample_type)


_SEPARATELY = "or leave these rows out with --on-bad-row skip."


def _box_problems(
    surveyed: Survey, descriptor: ImageDescriptor, options: ConvertOptions, *, is_given: bool
) -> list[Problem]:
    """Rows whose box is not the descriptor's, or without one not that of most rows."""
    table, factor = surveyed.table, options.downsample_factor
    after = f" after downsampling by {factor}" if factor > 1 else ""
    wanted = descriptor.cartesian_grid.side_px
    problems = []
    for box in _distinct(surveyed.box_of_row).tolist():
        if box in (0, wanted * factor):
            continue
        rows = np.flatnonzero(surveyed.box_of_row == box)
        message = indivisible_box(box, factor) or (
            f"images are {box // factor}×{box // factor} pixels{after}, "
            f"{'the descriptor says' if is_given else 'those of most rows'} {wanted}×{wanted}"
        )
        remedy = (
            f"Make a descriptor for these images (`cryolike describe --n-pixels {box // factor}`), "
            "or choose a downsampling factor that fits."
            if is_given
            else f"Convert images of different boxes separately, {_SEPARATELY}"
        )
        problems.append(
            Problem(
                message=f"{message} ({rows.size:,} of {len(table):,} rows)",
                reason=f"box of {box} pixels",
                remedy=remedy,
                file=", ".join(table.metadata_files),
                rows=rows,
                places=_stacks_of_box(surveyed, box),
            )
        )
    return problems


def _pixel_size_problems(
    surveyed: Survey, descriptor: ImageDescriptor, options: ConvertOptions, *, is_given: bool
) -> list[Problem]:
    """Disagreements of the metadata, the descriptor and the caller about the pixel size."""
    table, factor = surveyed.table, options.downsample_factor
    files = ", ".join(table.metadata_files)
    wanted_A, given_A = descriptor.cartesian_grid.pixel_size_A, options.pixel_size_A
    problems = []
    if given_A is not None and _differs(given_A * factor, wanted_A):
        after = f", so {given_A * factor:g} Å after downsampling by {factor}" if factor > 1 else ""
        problems.append(
            Problem(
                message=f"pixel_size is {given_A:g} Å{after}; the descriptor says {wanted_A:g} Å",
                remedy="Make a descriptor with that pixel size, or correct the one given.",
                kind="usage",
            )
        )
    reference = wanted_A / factor if given_A is None else given_A
    remedy = f"Correct what is wrong, convert different pixel sizes separately, {_SEPARATELY}"
    if given_A is not None:
        other = f"but the pixel size given says {reference:g} Å"
    elif is_given:
        other = f"but the descriptor says {reference:g} Å for the images on disk"
    else:
        other = f"but that of most rows is {reference:g} Å"
    sizes = np.unique(table.pixel_size_A[np.isfinite(table.pixel_size_A)])
    wrong = (sizes > 0) & _differs(sizes, reference)
    if not wrong.any():
        return problems
    size_of_row = np.searchsorted(sizes, table.pixel_size_A)
    for size, rows in zip(sizes[wrong], _rows_of_groups(size_of_row, wrong), strict=True):
        problems.append(
            Problem(
                message=f"pixel size is {size:g} Å ({table.pixel_size_source}), {other} "
                f"({rows.size:,} of {len(table):,} rows)",
                reason=f"pixel size {size:g} Å",
                remedy=remedy,
                file=files,
                rows=rows,
                places=_rows_and_images(table, rows),
            )
        )
    return problems


def _rows_of_groups(group_of_row: np.ndarray, wanted: np.ndarray) -> list[np.ndarray]:
    """Rows of each wanted group, ascending.

    Parameters
    ----------
    group_of_row
        Integers, (n_rows,).
    wanted
        bool, (n_groups,): of which groups.

    Returns
    -------
    list of ndarray
        One for each wanted group.
    """
    if not wanted.any():
        return []
    order = np.argsort(group_of_row, kind="stable")
    edges = np.searchsorted(group_of_row[order], np.arange(wanted.size + 1))
    return [order[edges[i] : edges[i + 1]] for i in np.flatnonzero(wanted)]


def _rows_and_images(table: ParticleTable, rows: np.ndarray) -> LazyPlaces:
    return LazyPlaces(
        rows.size, lambda i: f"row {table.source_row[rows[i]]}: {table.image_name(int(rows[i]))}"
    )


def _stacks_of_box(surveyed: Survey, box: int) -> LazyPlaces:
    paths = [
        p
        for p, h in zip(surveyed.image_paths, surveyed.headers, strict=True)
        if h and h.box_px == box
    ]
    return LazyPlaces(len(paths), lambda i: f"{paths[i]} ({box}×{box} pixels)")


def _pixel_size_notices(
    surveyed: Survey, descriptor: ImageDescriptor, options: ConvertOptions
) -> list[Notice]:
    used_A = descriptor.cartesian_grid.pixel_size_A / options.downsample_factor
    of_header = surveyed.header_pixel_size_A
    known = np.isfinite(of_header)
    noted = []
    is_untold = bool(np.isnan(surveyed.table.pixel_size_A).any()) and options.pixel_size_A is None
    if is_untold and not known.any():
        noted.append(
            Notice(f"No file gives the pixel size: the descriptor's, {used_A:g} Å, is used.")
        )
    other = known & _differs(np.where(known, of_header, used_A), used_A)
    if is_untold and known.any() and not other.any():
        noted.append(
            Notice("The metadata gives no pixel size: that of the stacks' headers counts.", "note")
        )
    if other.any():
        values = ", ".join(f"{size:g}" for size in np.unique(of_header[other])[:5])
        noted.append(
            Notice(
                f"{int(other.sum()):,} stacks give another pixel size in their header ({values} Å) "
                f"than is used ({used_A:g} Å)."
            )
        )
    return noted


def _skip_rows(
    table: ParticleTable, problems: Sequence[Problem], policy: Policy
) -> tuple[np.ndarray, tuple[tuple[int, int, str, str], ...]]:
    """Rows to keep, and what is written about the others; raise where skipping does not help."""
    if policy == "error" or any(problem.rows is None for problem in problems):
        raise_problems(problems)
    reasons: dict[int, str] = {}
    for problem in problems:
        for row in problem.rows if problem.rows is not None else ():
            reason = problem.reason or problem.message
            reasons[int(row)] = f"{reasons[int(row)]}; {reason}" if int(row) in reasons else reason
    kept = np.setdiff1d(np.arange(len(table)), np.fromiter(reasons, dtype=np.int64))
    if kept.size == 0:
        raise_problems(problems)
    rejects = tuple(
        (int(table.metadata_index[r]), int(table.source_row[r]), table.image_name(r), reasons[r])
        for r in sorted(reasons)
    )
    return kept, rejects


def _of_rows(
    surveyed: Survey, rows: np.ndarray
) -> tuple[ParticleTable, tuple[str, ...], tuple[StackHeader, ...]]:
    """Table, paths and headers of the rows that are kept."""
    used = _distinct(surveyed.table.image_file_index[rows])
    table = replace(surveyed.table, problems=()).take(rows)
    headers = [surveyed.headers[i] for i in used]
    if any(header is None for header in headers):  # every such row has a problem
        raise StackError("a stack without a header was kept")
    return table, tuple(surveyed.image_paths[i] for i in used), tuple(h for h in headers if h)


def _cut(table: ParticleTable, options: ConvertOptions) -> tuple[PlannedStack, ...]:
    """Cut the rows into stacks; those of different pairs of files never share one."""
    edges = np.array([0, len(table)])
    if table.kind == "paired":
        changes = np.flatnonzero(np.diff(table.metadata_index)) + 1
        edges = np.concatenate([[0], changes, [len(table)]])
    ranges = [
        (start, min(start + options.batch_size, int(stop)))
        for first, stop in pairwise(edges)
        for start in range(int(first), int(stop), options.batch_size)
    ]
    if options.n_stacks_max > 0:
        ranges = ranges[: options.n_stacks_max]
    return tuple(PlannedStack(index=i, start=a, stop=b) for i, (a, b) in enumerate(ranges))


def bytes_in_words(n_bytes: float) -> str:
    """Say how many bytes, in the unit that fits: ``"89.7 MB"``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"
