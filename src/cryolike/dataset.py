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
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, pairwise
from types import TracebackType
from typing import Any, NamedTuple, Self, SupportsIndex

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from cryolike.conversion.assembly import rejects_of, unusable_images
from cryolike.conversion.plan import ConversionPlan, ConvertOptions, plan_conversion
from cryolike.conversion.run import ImageConverter, contrast_factors, read_rows, resolve_device
from cryolike.descriptor import ImageDescriptor
from cryolike.errors import CryoLikeWarning, UsageError
from cryolike.io.mrc import StackReader
from cryolike.particles import ParticleTable
from cryolike.physics.ctf import CtfParameters, ctf_on_polar_grid
from cryolike.store.writer import Reject
from cryolike.threads import single_threaded_workers

__all__ = ["ParticleDataset", "PolarBatches", "PolarImages", "iter_polar"]


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
        self._opened: tuple[int, StackReader, _RowConverter] | None = None

    def __len__(self) -> int:
        return len(self.plan.table)

    def __getitem__(self, index: SupportsIndex) -> PolarImages:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[PolarImages]:
        """Make several items at once, which is quicker; ``DataLoader`` asks for them like this.

        Parameters
        ----------
        indices
            0 to the length of the dataset − 1, or negative from its end.

        Returns
        -------
        list of PolarImages
            One for each index, in that order.

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
        reader, convert = self._open()
        pixels = read_rows(self.plan, reader, rows)
        images, ctf = convert.new_memory(len(rows))
        n_threads = torch.get_num_threads()  # 1 in the workers of a DataLoader

        def convert_part(part: slice) -> tuple[list[str], PolarImages]:
            return convert(pixels[part], rows[part], images[part], ctf[part])

        with single_threaded_workers(n_threads) as workers:
            parts = _parts(len(rows), math.ceil(len(rows) / n_threads))
            unusable, batch = _joined(images, ctf, workers.map(convert_part, parts))
        if rejected := rejects_of(self.plan.table, rows, unusable):
            remedy = "Take the other rows of the table, or go through it with iter_polar, which "
            raise unusable_images(self.plan.table, rejected, f"{remedy}can skip them.")
        return [PolarImages(*(column[i] for column in batch)) for i in range(len(rows))]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _open(self) -> tuple[StackReader, _RowConverter]:
        """Open the stacks and build the transform, once in each process."""
        if self._opened is None or self._opened[0] != os.getpid():
            convert = _RowConverter(self.plan, self._row_of_plan, "cpu", has_ctf=self._has_ctf)
            reader = StackReader()
            weakref.finalize(self, reader.close)
            self._opened = os.getpid(), reader, convert
        _, reader, convert = self._opened
        return reader, convert


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


class _Memory:
    """Memory on the processor that is used again when no tensor refers to it any more.

    The system hands out new memory page by page when it is first written to, which takes a quarter
    of the time of a transform.

    Parameters
    ----------
    n_kept
        How many pieces of a size are kept at most.
    """

    def __init__(self, n_kept: int) -> None:
        self._free: defaultdict[int, deque[np.ndarray]] = defaultdict(lambda: deque(maxlen=n_kept))

    def empty(self, shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Make a tensor, as torch.empty does."""
        n_bytes = math.prod(shape) * dtype.itemsize
        if device.type != "cpu" or not n_bytes:
            return torch.empty(shape, dtype=dtype, device=device)
        free = self._free[n_bytes]
        piece = free.pop() if free else np.empty(n_bytes, dtype=np.uint8)
        # All tensors with this memory hold this array, so its end is that of the last of them
        lent = piece[:]
        weakref.finalize(lent, free.append, piece).atexit = False
        return torch.from_numpy(lent).view(dtype).view(shape)


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
        self._parameters = CtfParameters.from_table(plan.table) if has_ctf else None

        self.n_workers, self.n_in_part = self._convert.n_workers, self._convert.n_in_batch

    @property
    def device(self) -> torch.device:
        return self._convert.transform.device

    def new_memory(
        self, n_images: int, empty: Callable[..., Tensor] = torch.empty
    ) -> tuple[Tensor, Tensor]:
        """Memory for polar images and their contrast transfer functions, made by `empty`."""
        transform = self._convert.transform
        shape = (n_images, transform.polar.n_shells, transform.polar.n_inplanes)
        ctf_shape = (n_images, 0) if self._parameters is None else shape
        return (
            empty(shape, dtype=transform.complex_dtype, device=self.device),
            empty(ctf_shape, dtype=transform.real_dtype, device=self.device),
        )

    def __call__(
        self, pixels: np.ndarray, rows: np.ndarray, images: Tensor, ctf: Tensor
    ) -> tuple[list[str], PolarImages]:
        """Make polar images of the pixels of some rows of the plan, in memory that is given.

        Returns
        -------
        list of str
            For each image why it has no transform; empty where it has one.
        PolarImages
            All rows; meaningless for unusable images.
        """
        converted = self._convert(torch.from_numpy(pixels), self._contrast_factor[rows], images)
        if self._parameters is not None:
            polar = self._convert.transform.polar
            ctf_on_polar_grid(
                self._parameters.take(rows),
                polar.radius_shells,
                polar.theta_shell,
                self.plan.descriptor.cartesian_grid.box_size_A,
                dtype=ctf.dtype,
                device=self.device,
                out=ctf,
            )
        return converted.unusable, PolarImages(
            images=images,
            ctf=ctf,
            row=torch.from_numpy(self._row_of_plan[rows]),
            source_row=torch.from_numpy(self.plan.table.source_row[rows]),
            **{k: torch.from_numpy(values) for k, values in vars(converted.statistics).items()},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Group:
    """Rows on their way: read at once, converted by one thread or by several."""

    rows: np.ndarray
    images: Tensor
    ctf: Tensor
    pixels: Future[np.ndarray]
    parts: list[Future[tuple[list[str], PolarImages]]]

    def cancel(self) -> None:
        self.pixels.cancel()
        for part in self.parts:
            part.cancel()


def _batches(
    convert: _RowConverter, rows: np.ndarray, batch_size: int, rejected: list[Reject]
) -> Generator[PolarImages]:
    """Yield batches, a few groups of them ahead; collect what is skipped in `rejected`."""
    plan, n_workers, n_in_part = convert.plan, convert.n_workers, convert.n_in_part
    n_in_group = batch_size * max(1, n_in_part // batch_size)
    n_parts = math.ceil(n_in_group / n_in_part)
    # While the caller has one group, others keep all threads at work, and one waits
    n_groups = 1 + math.ceil((n_workers + 1) / n_parts)
    under_way: deque[_Group] = deque()
    memory = _Memory(n_groups)
    with (
        StackReader() as reader,
        ThreadPoolExecutor(1) as reading,
        single_threaded_workers(n_workers) as working,
    ):

        def start(rows: np.ndarray) -> _Group:
            pixels = reading.submit(read_rows, plan, reader, rows)
            images, ctf = convert.new_memory(len(rows), memory.empty)
            parts = [
                working.submit(_convert_part, convert, pixels, part, rows, images, ctf)
                for part in _parts(len(rows), n_in_part)
            ]
            return _Group(rows=rows, images=images, ctf=ctf, pixels=pixels, parts=parts)

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


def _parts(n_images: int, n_at_most: int) -> list[slice]:
    """Cut a range into equal parts."""
    edges = np.linspace(0, n_images, 1 + math.ceil(n_images / n_at_most)).astype(int).tolist()
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _joined(
    images: Tensor, ctf: Tensor, parts: Iterable[tuple[list[str], PolarImages]]
) -> tuple[list[str], PolarImages]:
    """Put parts together whose images and functions are in one place already."""
    unusable, batches = zip(*parts, strict=True)
    _, _, *others = zip(*batches, strict=True)
    return list(chain(*unusable)), PolarImages(images, ctf, *map(torch.cat, others))


def _convert_part(
    convert: _RowConverter,
    pixels: Future[np.ndarray],
    part: slice,
    rows: np.ndarray,
    images: Tensor,
    ctf: Tensor,
) -> tuple[list[str], PolarImages]:
    """Convert a part of a group when it is read."""
    return convert(pixels.result()[part], rows[part], images[part], ctf[part])


def _finished(
    plan: ConversionPlan, group: _Group, batch_size: int, rejected: list[Reject]
) -> Iterator[PolarImages]:
    """Yield the batches of a group when it is done."""
    parts = (part.result() for part in group.parts)
    reasons, whole = _joined(group.images, group.ctf, parts)
    found = rejects_of(plan.table, group.rows, reasons)
    if found and plan.options.on_bad_image == "error":
        raise unusable_images(plan.table, found, "Leave them out with on_bad_image='skip'.")
    rejected += found
    if found:
        usable = torch.tensor([not reason for reason in reasons])
        whole = PolarImages(*(column[usable] for column in whole))
    for start in range(0, len(whole.row), batch_size):
        yield PolarImages(*(column[start : start + batch_size] for column in whole))


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
