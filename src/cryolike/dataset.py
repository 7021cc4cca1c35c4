"""Polar images straight out of the stacks of a particle set, without converted files.

`iter_polar` goes through a set as fast as it can be transformed; `ParticleDataset` gives PyTorch's
``DataLoader`` single images in any order. Both plan first, so that everything wrong with metadata,
paths and headers is reported before an image is read.
"""

from __future__ import annotations

import math
import operator
import os
import warnings
import weakref
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, pairwise
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, NamedTuple, Self, SupportsIndex, overload

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from cryolike.conversion.assembly import rejects_of, unusable_images
from cryolike.conversion.memory import Memory, SharedMemory, receive, shared_message
from cryolike.conversion.plan import ConversionPlan, ConvertOptions, plan_conversion
from cryolike.conversion.run import ImageConverter, contrast_factors, read_rows, resolve_device
from cryolike.descriptor import ImageDescriptor
from cryolike.errors import CryoLikeWarning, UsageError
from cryolike.io.mrc import StackReader
from cryolike.particles import ParticleTable
from cryolike.physics.ctf import CtfCoefficients, CtfParameters, PolarCtf
from cryolike.store.writer import Reject
from cryolike.threads import in_single_threads, n_usable_cores, single_threaded_workers

__all__ = ["ParticleDataset", "PolarBatches", "PolarImages", "iter_polar"]

_N_KEPT = 2
"""Batches whose memory a dataset keeps for the next ones."""

_N_BATCHES_OF_CONVERSION = 2
"""How much more than where files are written a thread of the processor is given at once: a call
costs as much as several images, and there is no disk to keep at work."""


class PolarImages(NamedTuple):
    """Polar images of a few rows and what belongs to them; of one row without the leading axis.

    Attributes
    ----------
    images : Tensor
        Complex, (n_images, n_shells, n_inplanes), on the polar grid of the descriptor.
    ctf : Tensor
        Real, of the same shape: what each image's own metadata gives; (n_images, 0) where it was
        not asked for.
    row : Tensor
        Position in the table that was given, int64, (n_images,).
    source_row : Tensor
        0-based row of the metadata file, int64, (n_images,).
    contrast_factor, image_mean, image_largest, polar_norm : Tensor
        What was divided out, float64, (n_images,): the pixels were (original · contrast_factor −
        image_mean) / image_largest, and their transform was divided by polar_norm.
    """

    images: Complex[Tensor, "*n_images n_shells n_inplanes"]
    ctf: Float[Tensor, "*shape"]
    row: Int[Tensor, "*n_images"]
    source_row: Int[Tensor, "*n_images"]
    contrast_factor: Float[Tensor, "*n_images"]
    image_mean: Float[Tensor, "*n_images"]
    image_largest: Float[Tensor, "*n_images"]
    polar_norm: Float[Tensor, "*n_images"]


class _Items(Sequence[PolarImages]):
    """The single items of a batch, which are views of it."""

    def __init__(self, batch: PolarImages) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch.row)

    @overload
    def __getitem__(self, index: SupportsIndex) -> PolarImages: ...
    @overload
    def __getitem__(self, index: slice) -> list[PolarImages]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> PolarImages | list[PolarImages]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        i = range(len(self))[operator.index(index)]
        return PolarImages(*(column[i] for column in self.batch))


def _collate(items: Sequence[PolarImages], *, collate_fn_map: Any = None) -> PolarImages:
    """Put items together, as PyTorch's ``default_collate`` does; without copying where they are."""
    if isinstance(items, _Items):
        return items.batch
    columns = zip(*items, strict=True)
    return PolarImages(*(collate(column, collate_fn_map=collate_fn_map) for column in columns))


default_collate_fn_map[PolarImages] = _collate


def _reduce(batch: PolarImages) -> tuple[Any, ...]:
    """Send a batch to another process: without copying where its memory is shared."""
    message = shared_message(batch)
    return (PolarImages, tuple(batch)) if message is None else (_received, message)


def _received(*message: Any) -> PolarImages:
    return PolarImages(*receive(*message))


ForkingPickler.register(PolarImages, _reduce)


class ParticleDataset(Dataset[PolarImages]):
    """Polar images of single rows in any order, for PyTorch's ``DataLoader``.

    Each process opens the stacks and builds the transform for itself when it first needs them, so
    that ``DataLoader`` may use any number of workers, however they are started.

    Parameters
    ----------
    particles
        Table as a reader returned it, or a plan from `cryolike.conversion.plan_conversion`.
    descriptor
        Of the images after downsampling; None to take box and pixel size from the set.
    options
        How to convert; what concerns output files counts for nothing.
    ctf
        Whether items hold the contrast transfer function.

    Attributes
    ----------
    plan : ConversionPlan
        What is read, and how.

    Raises
    ------
    InputError
        One error that lists everything wrong with metadata, paths and headers.
    UsageError
        Where options do not fit the images, or ask for bad images to be skipped: an item that is
        asked for has to be there.

    Examples
    --------
    >>> dataset = ParticleDataset(read_particles("particles.star"))         # doctest: +SKIP
    >>> loader = DataLoader(dataset, 64, shuffle=True, num_workers=4)       # doctest: +SKIP
    >>> for batch in loader:                                                # doctest: +SKIP
    ...     residual = batch.images - batch.ctf * model(batch.row)
    """

    def __init__(
        self,
        particles: ParticleTable | ConversionPlan,
        descriptor: ImageDescriptor | None = None,
        options: ConvertOptions | None = None,
        *,
        ctf: bool = True,
    ) -> None:
        if isinstance(particles, ParticleTable):
            self.plan, self._row_of_plan = _plan(particles, descriptor, options)
        else:
            _refuse_with_plan(descriptor, options)
            self.plan, self._row_of_plan = particles, np.arange(len(particles.table))
        if self.plan.options.on_bad_image == "skip":
            msg = "A dataset cannot skip bad images (on_bad_image='skip'); iter_polar can."
            raise UsageError(msg)
        self._has_ctf = ctf
        self._opened: _Opened | None = None

    def __len__(self) -> int:
        return len(self.plan.table)

    def __getitem__(self, index: SupportsIndex) -> PolarImages:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> Sequence[PolarImages]:
        """Make several items at once, which is quicker; ``DataLoader`` asks for them like this.

        Parameters
        ----------
        indices
            0 to the length of the dataset − 1, or negative from its end.

        Returns
        -------
        sequence of PolarImages
            One for each index, in that order. ``default_collate`` makes a batch of them without
            copying.

        Raises
        ------
        ImageError
            Where images are blank or not finite.
        IndexError
            Where there is no such item.
        """
        every = range(len(self))
        rows = np.array([every[operator.index(i)] for i in indices], dtype=np.int64)
        if not rows.size:
            return []
        opened, n_threads = self._open(), torch.get_num_threads()  # 1 in a DataLoader's workers
        batch = opened.convert.new_batch(len(rows), opened.memory)
        plan = self.plan  # a thread must not hold the dataset, which closes files when it goes

        def convert_part(part: slice) -> list[str]:
            pixels = read_rows(plan, opened.reader, rows[part], opened.memory_of_pixels)
            return opened.convert(pixels, rows[part], _part(batch, part))

        n_rounds = max(1, round(len(rows) / (n_threads * opened.convert.n_in_part)))
        parts = _parts(len(rows), n_threads * n_rounds)
        if min(n_threads, len(parts)) == 1:
            unusable = [*chain(*map(convert_part, parts))]
        else:
            found = in_single_threads(opened.workers, n_threads, convert_part, parts)
            unusable = [*chain(*found)]
        if rejected := rejects_of(self.plan.table, rows, unusable):
            remedy = "Take the other rows of the table, or go through it with iter_polar, which "
            raise unusable_images(self.plan.table, rejected, f"{remedy}can skip them.")
        return _Items(batch)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _open(self) -> _Opened:
        """Open the stacks and build the transform, once in each process."""
        if self._opened is None or self._opened.process != os.getpid():
            opened = self._opened = _Opened(
                process=os.getpid(),
                reader=StackReader(),
                convert=_RowConverter(self.plan, self._row_of_plan, "cpu", has_ctf=self._has_ctf),
                memory=Memory(_N_KEPT) if get_worker_info() is None else SharedMemory(_N_KEPT),
                memory_of_pixels=Memory(n_usable_cores()),
                workers=ThreadPoolExecutor(n_usable_cores()),
            )
            weakref.finalize(self, opened.reader.close)
        return self._opened


def iter_polar(
    table: ParticleTable | ConversionPlan,
    descriptor: ImageDescriptor | None = None,
    *,
    batch_size: int = 128,
    device: str = "cpu",
    options: ConvertOptions | None = None,
    ctf: bool = True,
    rows: Sequence[int] | np.ndarray | None = None,
) -> PolarBatches:
    """Go through a particle set, one batch of polar images after the other.

    Images are read ahead and transformed on all cores while the caller works on a batch. A few
    batches are under way at a time, however large the set is.

    Parameters
    ----------
    table
        As a reader returned it, or a plan from `cryolike.conversion.plan_conversion`.
    descriptor
        Of the images after downsampling; None to take box and pixel size from the set.
    batch_size
        Images in a batch; the last one can have fewer, and where images are skipped so do others.
    device
        Where the transform runs and images and CTF are: 'cpu', 'cuda', or 'auto' for the GPU
        where there is one.
    options
        How to convert; what concerns output files counts for nothing.
    ctf
        Whether batches hold contrast transfer functions.
    rows
        Positions in the table, in the wanted order; all where it is not given. Nothing is asked of
        other rows, nor of their stacks.

    Returns
    -------
    PolarBatches
        An iterator. It stops reading when it is closed or forgotten.

    Raises
    ------
    InputError
        At once: one error that lists everything wrong with metadata, paths and headers.
    ImageError
        On the way, where images are blank or not finite and ``on_bad_image`` is 'error'.
    UsageError
        Where options do not fit the images, or there is no such device or row.

    Examples
    --------
    >>> table = read_particles("particles.star")                            # doctest: +SKIP
    >>> for batch in iter_polar(table):                                     # doctest: +SKIP
    ...     power = batch.images.abs().square().mean(dim=2)  # of each shell
    ...     agreement = (batch.images * batch.ctf).abs().mean(dim=(1, 2))
    """
    if batch_size < 1:
        msg = f"batch_size is {batch_size}; it must be at least 1."
        raise UsageError(msg)
    if isinstance(table, ConversionPlan):
        _refuse_with_plan(descriptor, options)
        n_rows = len(table.table)
        sequence = np.arange(n_rows) if rows is None else _checked_rows(rows, n_rows)
        converter = _RowConverter(table, np.arange(n_rows), resolve_device(device), has_ctf=ctf)
        return PolarBatches(converter, sequence, batch_size)
    chosen = np.arange(len(table)) if rows is None else _checked_rows(rows, len(table))
    distinct, place = np.unique(chosen, return_inverse=True)
    asked_for = table if len(distinct) == len(table) else table.take(distinct)
    plan, kept = _plan(asked_for, descriptor, options)
    row_of_plan = np.full(len(distinct), -1)
    row_of_plan[kept] = np.arange(len(kept))
    sequence = row_of_plan[place]
    converter = _RowConverter(plan, distinct[kept], resolve_device(device), has_ctf=ctf)
    return PolarBatches(converter, sequence[sequence >= 0], batch_size)


class PolarBatches(Iterator[PolarImages]):
    """Batches of polar images in order, made ahead of the caller; a context manager.

    Threads and files are closed when all batches are out, after an error, and when the iterator is
    closed or forgotten.

    Attributes
    ----------
    plan : ConversionPlan
        What is read, and how.
    """

    def __init__(self, converter: _RowConverter, rows: np.ndarray, batch_size: int) -> None:
        self.plan = converter.plan
        self._rejected: list[Reject] = []
        # It knows nothing of this object, so that it ends as soon as nobody else does
        self._batches = _batches(converter, rows, batch_size, self._rejected)

    @property
    def rejects(self) -> tuple[Reject, ...]:
        """Rows left out so far: (metadata file, source row, image name, reason)."""
        return (*self.plan.rejects, *self._rejected)

    def __next__(self) -> PolarImages:
        return next(self._batches)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop: what is under way is finished and thrown away."""
        self._batches.close()


class _RowConverter:
    """Makes polar images, and what belongs to them, of rows of a plan; in one process."""

    def __init__(
        self,
        plan: ConversionPlan,
        row_of_plan: np.ndarray,
        device: str | torch.device,
        *,
        has_ctf: bool,
    ) -> None:
        self.plan, self._row_of_plan = plan, row_of_plan
        self._convert = ImageConverter(plan, device)
        self._contrast_factor = contrast_factors(plan)
        polar, pixels = plan.descriptor.polar_grid, plan.descriptor.cartesian_grid
        self._coefficients: CtfCoefficients | None = None
        if has_ctf:
            self._coefficients = CtfCoefficients.of(CtfParameters.from_table(plan.table))
            on_grid = polar.radius_shells, polar.theta_shell, pixels.box_size_A, self.device
            self._ctf = PolarCtf(*on_grid)
        self.n_workers = self._convert.n_workers
        n_batches = _N_BATCHES_OF_CONVERSION if self.device.type == "cpu" else 1
        self.n_in_part = n_batches * self._convert.n_in_batch

    @property
    def device(self) -> torch.device:
        return self._convert.transform.device

    def new_batch(self, n_images: int, memory: Memory) -> PolarImages:
        """Memory for a batch, which holds anything."""
        transform = self._convert.transform
        shape = (n_images, transform.polar.n_shells, transform.polar.n_inplanes)
        ctf_shape = (n_images, 0) if self._coefficients is None else shape
        large = [(shape, transform.complex_dtype), (ctf_shape, transform.real_dtype)]
        small = [((n_images,), torch.int64)] * 2 + [((n_images,), torch.float64)] * 4
        if self.device.type == "cpu":
            return PolarImages(*memory.tensors([*large, *small]))
        on_device = [torch.empty(shape, dtype=t, device=self.device) for shape, t in large]
        return PolarImages(*on_device, *memory.tensors(small))

    def __call__(self, pixels: np.ndarray, rows: np.ndarray, batch: PolarImages) -> list[str]:
        """Make polar images of the pixels of some rows of the plan, in memory that is given.

        Returns
        -------
        list of str
            For each image why it has no transform, in which case the batch holds nothing of
            meaning; empty where it has one.
        """
        factor = self._contrast_factor[rows]
        converted = self._convert(torch.from_numpy(pixels), factor, batch.images)
        if self._coefficients is not None:
            self._ctf(self._coefficients.take(rows), batch.ctf)
        known = {"row": self._row_of_plan[rows], "source_row": self.plan.table.source_row[rows]}
        for name, values in (known | vars(converted.statistics)).items():
            getattr(batch, name).copy_(torch.from_numpy(values))
        return converted.unusable


@dataclass(frozen=True, kw_only=True, eq=False)
class _Opened:
    """What a dataset needs in each process."""

    process: int
    reader: StackReader
    convert: _RowConverter
    memory: Memory
    memory_of_pixels: Memory
    workers: ThreadPoolExecutor


@dataclass(frozen=True, kw_only=True, eq=False)
class _Group:
    """Rows on their way: read at once, converted by one thread or by several."""

    rows: np.ndarray
    pixels: Future[np.ndarray]
    batch: Future[PolarImages]
    parts: list[Future[list[str]]]

    def cancel(self) -> None:
        self.pixels.cancel()
        self.batch.cancel()
        for part in self.parts:
            part.cancel()


def _batches(
    convert: _RowConverter, rows: np.ndarray, batch_size: int, rejected: list[Reject]
) -> Generator[PolarImages]:
    """Yield batches, a few groups of them ahead; collect what is skipped in `rejected`."""
    plan, n_workers = convert.plan, convert.n_workers
    n_in_part = max(1, min(convert.n_in_part, len(rows) // n_workers))
    n_in_group = batch_size * max(1, n_in_part // batch_size)
    n_parts = max(1, round(n_in_group / n_in_part))
    # While the caller has one group, others keep all threads at work, and one waits
    n_groups = 1 + math.ceil((n_workers + 1) / n_parts)
    under_way: deque[_Group] = deque()
    memory, memory_of_pixels = Memory(n_groups), Memory(n_groups)
    with (
        StackReader() as reader,
        ThreadPoolExecutor(1) as reading,
        single_threaded_workers(n_workers) as working,
    ):

        def start(rows: np.ndarray) -> _Group:
            pixels = reading.submit(read_rows, plan, reader, rows, memory_of_pixels)
            # Not before a thread comes to it: by then the caller has often given back another's
            batch = working.submit(convert.new_batch, len(rows), memory)
            parts = [
                working.submit(_convert_part, convert, pixels, part, rows, batch)
                for part in _parts(len(rows), max(1, round(len(rows) / n_in_part)))
            ]
            return _Group(rows=rows, batch=batch, pixels=pixels, parts=parts)

        try:
            for first in range(0, len(rows), n_in_group):
                under_way.append(start(rows[first : first + n_in_group]))
                if len(under_way) == n_groups:
                    yield from _finished(plan, under_way[0], batch_size, rejected)
                    under_way.popleft()
            while under_way:
                yield from _finished(plan, under_way[0], batch_size, rejected)
                under_way.popleft()
        finally:
            for group in under_way:
                group.cancel()


def _parts(n_images: int, n_parts: int) -> list[slice]:
    """Cut a range into so many equal parts, or fewer, none of which is empty."""
    edges = np.linspace(0, n_images, 1 + min(n_parts, n_images)).astype(int).tolist()
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _part(batch: PolarImages, part: slice | Tensor) -> PolarImages:
    return PolarImages(*(column[part] for column in batch))


def _convert_part(
    convert: _RowConverter,
    pixels: Future[np.ndarray],
    part: slice,
    rows: np.ndarray,
    batch: Future[PolarImages],
) -> list[str]:
    """Convert a part of a group when it is read."""
    return convert(pixels.result()[part], rows[part], _part(batch.result(), part))


def _finished(
    plan: ConversionPlan, group: _Group, batch_size: int, rejected: list[Reject]
) -> Iterator[PolarImages]:
    """Yield the batches of a group when it is done."""
    reasons = [*chain(*(part.result() for part in group.parts))]
    whole = group.batch.result()
    found = rejects_of(plan.table, group.rows, reasons)
    if found and plan.options.on_bad_image == "error":
        raise unusable_images(plan.table, found, "Leave them out with on_bad_image='skip'.")
    rejected += found
    if found:
        whole = _part(whole, torch.tensor([not reason for reason in reasons]))
    for start in range(0, len(whole.row), batch_size):
        yield _part(whole, slice(start, start + batch_size))


def _plan(
    table: ParticleTable,
    descriptor: ImageDescriptor | None,
    options: ConvertOptions | None,
) -> tuple[ConversionPlan, np.ndarray]:
    """Plan, with warnings as warnings; also the position in the table of each row of the plan."""
    plan = plan_conversion(table, descriptor, options)
    for notice in plan.notices:
        if notice.level == "warning":
            warnings.warn(notice.message, CryoLikeWarning, stacklevel=3)
    if not plan.rejects:
        return plan, np.arange(len(table))
    left_out = {(file, row) for file, row, *_ in plan.rejects}
    names = zip(table.metadata_index.tolist(), table.source_row.tolist(), strict=True)
    return plan, np.array([i for i, name in enumerate(names) if name not in left_out])


def _refuse_with_plan(descriptor: ImageDescriptor | None, options: ConvertOptions | None) -> None:
    if descriptor is not None or options is not None:
        raise UsageError("A plan has its own descriptor and options: give no others.")


def _checked_rows(rows: Sequence[int] | np.ndarray, n_rows: int) -> np.ndarray:
    """Return positions in a table as int64.

    Raises
    ------
    UsageError
        Where they are none, or not positions in a table of so many rows.
    """
    chosen = np.asarray(rows)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or not chosen.size:
        raise UsageError("rows must be a list of at least one whole number.")
    outside = chosen[(chosen < 0) | (chosen >= n_rows)]
    if outside.size:
        msg = f"rows: there is no row {outside[0]}; the table has {n_rows:,}, counted from 0."
        raise UsageError(msg)
    return chosen.astype(np.int64)
