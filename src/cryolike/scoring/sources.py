"""Polar images to be scored, block by block: straight out of a set, or converted before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryolike.conversion.assembly import rejects_of, unusable_images
from cryolike.conversion.plan import ConversionPlan
from cryolike.conversion.run import resolve_device
from cryolike.dataset import PolarImages, iter_polar
from cryolike.descriptor import ImageDescriptor
from cryolike.errors import ImageError, MetadataError, Problem, counted
from cryolike.grids import CartesianGrid2D
from cryolike.io.read import read_table_again
from cryolike.particles import ParticleTable
from cryolike.physics.ctf import CtfParameters, ctf_on_polar_grid
from cryolike.store import StackSet
from cryolike.store.manifest import checksum_of_rows, rows_of_ranges
from cryolike.store.writer import Reject

__all__ = [
    "ConvertedSource",
    "ImageBlock",
    "ImageSource",
    "SetSource",
    "rows_in_whole",
    "source_problems",
    "zero_ctf_problems",
]

_ZERO_CTF = "its CTF is zero everywhere"

_LEAVE_OUT = "leave these images out with --on-bad-image skip (on_bad_image='skip')."


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageBlock:
    """Consecutive images of a set that can be scored.

    Parameters
    ----------
    index
        Counter of the block.
    rows
        Positions in the table of the source, int64, (n_images,).
    images, ctf
        Polar images and contrast transfer functions, (n_images, n_shells, n_inplanes).
    rejected
        Images of the block that are left out.
    """

    index: int
    rows: np.ndarray
    images: Tensor
    ctf: Tensor
    rejected: tuple[Reject, ...] = ()


class ImageSource(ABC):
    """Where images come from."""

    @property
    @abstractmethod
    def table(self) -> ParticleTable:
        """What the metadata says of the images, in their order."""

    @property
    @abstractmethod
    def descriptor(self) -> ImageDescriptor:
        """Grids of the images."""

    @property
    @abstractmethod
    def whole_table(self) -> ParticleTable:
        """What the metadata says of all images of the set, those that are not scored included."""

    @property
    @abstractmethod
    def on_disk(self) -> CartesianGrid2D:
        """Pixels of the images as they were before any downsampling."""

    @property
    @abstractmethod
    def ctf_parameters(self) -> CtfParameters:
        """Of the images, in their order."""

    @property
    @abstractmethod
    def rejects(self) -> tuple[Reject, ...]:
        """Rows left out before any image was read."""

    @property
    @abstractmethod
    def input_paths(self) -> list[str]:
        """Every file that the images depend on."""

    @property
    @abstractmethod
    def stacks_of_rows(self) -> dict[int, range]:
        """Rows of the table of each stack of the converted set, by its number."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Tell what decides over the images, as plain values."""

    @abstractmethod
    def blocks(
        self, wanted: Mapping[int, range], device: str, *, skip_unusable: bool
    ) -> Iterator[ImageBlock]:
        """Give the wanted blocks in ascending order; each is a range of positions in the table.

        Raises
        ------
        ImageError
            On the way, where images cannot be used and are not to be skipped.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class SetSource(ImageSource):
    """Images converted on the fly, which are written nowhere.

    Parameters
    ----------
    plan
        How they are converted.
    """

    plan: ConversionPlan

    @property
    def table(self) -> ParticleTable:
        """See `ImageSource`."""
        return self.plan.table

    @property
    def descriptor(self) -> ImageDescriptor:
        """See `ImageSource`."""
        return self.plan.descriptor

    @cached_property
    def whole_table(self) -> ParticleTable:
        """See `ImageSource`."""
        return read_table_again(self.table.kind, self.table.reader_arguments)

    @property
    def on_disk(self) -> CartesianGrid2D:
        """See `ImageSource`."""
        return _on_disk(self.descriptor, self.plan.options.downsample_factor)

    @property
    def ctf_parameters(self) -> CtfParameters:
        """See `ImageSource`."""
        return CtfParameters.from_table(self.table)

    @property
    def rejects(self) -> tuple[Reject, ...]:
        """See `ImageSource`."""
        return self.plan.rejects

    @property
    def input_paths(self) -> list[str]:
        """See `ImageSource`."""
        return self.plan.input_paths

    @property
    def stacks_of_rows(self) -> dict[int, range]:
        """See `ImageSource`: as the set would be cut if it were converted."""
        stacks = {stack.index: range(stack.start, stack.stop) for stack in self.plan.stacks}
        for start in range(self.plan.n_images, len(self.table), self.plan.options.batch_size):
            stop = min(start + self.plan.options.batch_size, len(self.table))
            stacks[len(stacks)] = range(start, stop)
        return stacks

    def settings(self) -> dict[str, Any]:
        """See `ImageSource`."""
        options = asdict(self.plan.options)
        for name in ("batch_size", "n_stacks_max", "plots", "on_bad_row", "on_bad_image"):
            del options[name]
        return _settings(self.table, self.descriptor) | {"conversion": options}

    def blocks(
        self, wanted: Mapping[int, range], device: str, *, skip_unusable: bool
    ) -> Iterator[ImageBlock]:
        """See `ImageSource`."""
        if not wanted:
            return
        n_before = len(self.plan.rejects)
        n_at_once = max(map(len, wanted.values()))
        rows = np.concatenate([np.arange(r.start, r.stop) for r in wanted.values()])
        with (
            _remedy_of_the_program(),
            iter_polar(self.plan, batch_size=n_at_once, rows=rows, device=device) as batches,
        ):
            for index, parts in _cut_into_blocks(batches, wanted):
                kept = np.concatenate([part.row.numpy() for part in parts] or [rows[:0]])
                missing = np.setdiff1d(np.arange(wanted[index].start, wanted[index].stop), kept)
                reasons = {name[:2]: name[3] for name in batches.rejects[n_before:]}
                found = [reasons[key] for key in _names(self.table, missing)]
                yield _usable(
                    self.table,
                    ImageBlock(
                        index=index,
                        rows=kept,
                        images=_joined([part.images for part in parts], self.descriptor),
                        ctf=_joined([part.ctf for part in parts], self.descriptor),
                        rejected=rejects_of(self.table, missing, found),
                    ),
                    skip=skip_unusable,
                )


@contextmanager
def _remedy_of_the_program() -> Iterator[None]:
    """Name the option of the command line, too, where images cannot be used."""
    try:
        yield
    except ImageError as error:
        remedy = f"Repair the stack, or {_LEAVE_OUT}"
        raise ImageError(replace(problem, remedy=remedy) for problem in error.problems) from error


def _joined(parts: list[Tensor], descriptor: ImageDescriptor) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    polar = descriptor.polar_grid
    return torch.cat(parts) if parts else torch.empty(0, polar.n_shells, polar.n_inplanes)


def _names(table: ParticleTable, rows: np.ndarray) -> list[tuple[int, int]]:
    return list(
        zip(table.metadata_index[rows].tolist(), table.source_row[rows].tolist(), strict=True)
    )


def _cut_into_blocks(
    batches: Iterable[PolarImages], wanted: Mapping[int, range]
) -> Iterator[tuple[int, list[PolarImages]]]:
    """Cut batches at the edges of blocks; a block without any images has no parts."""
    waiting = deque(wanted.items())
    parts: list[PolarImages] = []
    for batch in batches:
        row = batch.row.numpy()
        stops = np.array([block.stop for _, block in waiting])
        edges = np.unique([0, *np.searchsorted(row, stops), len(row)]).tolist()
        for start, stop in pairwise(edges):
            while row[start] >= waiting[0][1].stop:
                yield waiting.popleft()[0], parts
                parts = []
            parts.append(PolarImages(*(column[start:stop] for column in batch)))
            if row[stop - 1] == waiting[0][1].stop - 1:
                yield waiting.popleft()[0], parts
                parts = []
    while waiting:
        yield waiting.popleft()[0], parts
        parts = []


@dataclass(frozen=True, kw_only=True, eq=False)
class ConvertedSource(ImageSource):
    """Images of a converted set.

    Parameters
    ----------
    stacks
        The set.
    """

    stacks: StackSet

    @cached_property
    def table(self) -> ParticleTable:
        """See `ImageSource`."""
        ours = rows_of_ranges([r for s in self.stacks.stack_records for r in s.rows])
        return self.whole_table.take(_positions(self.whole_table, ours[:, 0], ours[:, 1]))

    @cached_property
    def whole_table(self) -> ParticleTable:
        """See `ImageSource`; read again from the file that the set was made of."""
        header = self.stacks.manifest.header
        return read_table_again(header.kind, header.reader_arguments)

    @property
    def descriptor(self) -> ImageDescriptor:
        """See `ImageSource`."""
        return self.stacks.descriptor

    @property
    def on_disk(self) -> CartesianGrid2D:
        """See `ImageSource`."""
        factor = self.stacks.manifest.header.options["downsample_factor"]
        return _on_disk(self.descriptor, factor)

    @property
    def ctf_parameters(self) -> CtfParameters:
        """See `ImageSource`."""
        return CtfParameters.from_frame(self.stacks.table)

    @property
    def rejects(self) -> tuple[Reject, ...]:
        """See `ImageSource`: the converted set has listed its own."""
        return ()

    @property
    def input_paths(self) -> list[str]:
        """See `ImageSource`."""
        metadata = self.stacks.manifest.header.inputs[: len(self.table.metadata_files)]
        return [str(self.stacks.layout.manifest), *(record.path for record in metadata)]

    @property
    def stacks_of_rows(self) -> dict[int, range]:
        """See `ImageSource`."""
        records = self.stacks.stack_records
        ends = np.cumsum([0, *(record.n_images for record in records)]).tolist()
        return {
            record.index: range(start, stop)
            for record, (start, stop) in zip(records, pairwise(ends), strict=True)
        }

    def settings(self) -> dict[str, Any]:
        """See `ImageSource`."""
        folder = str(self.stacks.layout.folder.absolute())
        return _settings(self.table, self.descriptor) | {"converted": folder}

    def blocks(
        self, wanted: Mapping[int, range], device: str, *, skip_unusable: bool
    ) -> Iterator[ImageBlock]:
        """See `ImageSource`."""
        polar, box_A = self.descriptor.polar_grid, self.descriptor.cartesian_grid.box_size_A
        parameters = self.ctf_parameters
        on_device = resolve_device(device)
        for index, rows in wanted.items():
            images = self._images(rows).to(on_device)
            block = ImageBlock(
                index=index,
                rows=np.arange(rows.start, rows.stop),
                images=images,
                ctf=ctf_on_polar_grid(
                    parameters.take(slice(rows.start, rows.stop)),
                    polar.radius_shells,
                    polar.theta_shell,
                    box_A,
                    dtype=images.real.dtype,
                    device=on_device,
                ),
            )
            yield _usable(self.table, block, skip=skip_unusable)

    def _images(self, rows: range) -> Tensor:
        ends = np.cumsum([record.n_images for record in self.stacks.stack_records])
        first = np.searchsorted(ends, [rows.start, rows.stop - 1], side="right")
        parts = []
        for i in range(first[0], first[1] + 1):
            before = int(ends[i - 1]) if i else 0
            within = slice(max(0, rows.start - before), rows.stop - before)
            parts.append(self.stacks.images(i)[within])
        return torch.cat(parts)


def _on_disk(descriptor: ImageDescriptor, factor: int) -> CartesianGrid2D:
    grid = descriptor.cartesian_grid
    return CartesianGrid2D(grid.side_px * factor, grid.pixel_size_A / factor)


def rows_in_whole(source: ImageSource, rows: np.ndarray) -> np.ndarray:
    """Positions in the whole table of rows of a source's table."""
    table = source.table
    return _positions(source.whole_table, table.metadata_index[rows], table.source_row[rows])


def _positions(
    table: ParticleTable, metadata_index: np.ndarray, source_row: np.ndarray
) -> np.ndarray:
    """Positions of rows that are named by file and row of it."""
    n_most = 1 + max(int(table.source_row.max()), int(source_row.max(initial=0)))
    theirs = table.metadata_index * n_most + table.source_row
    wanted = metadata_index * n_most + source_row
    order = np.argsort(theirs, kind="stable")
    found: np.ndarray = order[np.minimum(np.searchsorted(theirs[order], wanted), len(order) - 1)]
    if not (theirs[found] == wanted).all():
        raise MetadataError(
            Problem(
                message="rows that were used are not in it any more",
                file=", ".join(table.metadata_files),
                remedy="Was it changed since? Convert and score it anew.",
            )
        )
    return found


def _settings(table: ParticleTable, descriptor: ImageDescriptor) -> dict[str, Any]:
    return {
        "kind": table.kind,
        "reader": dict(table.reader_arguments),
        "n_images": len(table),
        "rows": checksum_of_rows(table.metadata_index, table.source_row),
        "grids": {key: value.tolist() for key, value in descriptor.to_arrays().items()},
    }


def _usable(table: ParticleTable, block: ImageBlock, *, skip: bool) -> ImageBlock:
    """Leave out images that nothing of the structure has reached, or raise."""
    is_zero = (block.ctf == 0).flatten(1).all(dim=1).cpu().numpy()
    if not is_zero.any():
        return block
    if not skip:
        raise _without_ctf(table, block.rows[is_zero])
    found = rejects_of(table, block.rows[is_zero], [_ZERO_CTF] * int(is_zero.sum()))
    kept = torch.from_numpy(~is_zero)
    return ImageBlock(
        index=block.index,
        rows=block.rows[~is_zero],
        images=block.images[kept.to(block.images.device)],
        ctf=block.ctf[kept.to(block.ctf.device)],
        rejected=tuple(sorted((*block.rejected, *found))),
    )


def _without_ctf(table: ParticleTable, rows: np.ndarray) -> ImageError:
    return unusable_images(
        table,
        rejects_of(table, rows, [_ZERO_CTF] * len(rows)),
        f"Correct the CTF parameters in the metadata, or {_LEAVE_OUT}",
    )


def zero_ctf_problems(source: ImageSource) -> list[Problem]:
    """Name the images whose CTF is zero everywhere, of which nothing can be said."""
    parameters, polar = source.ctf_parameters, source.descriptor.polar_grid
    box_A = source.descriptor.cartesian_grid.box_size_A
    dtype = torch.float32 if source.descriptor.precision == "single" else torch.float64

    def which_are_zero(rows: np.ndarray, shells: np.ndarray, angles: np.ndarray) -> np.ndarray:
        ctf = ctf_on_polar_grid(parameters.take(rows), shells, angles, box_A, dtype=dtype)
        found: np.ndarray = rows[(ctf == 0).flatten(1).all(dim=1).numpy()]
        return found

    # Few points tell that a CTF is not zero; all have to be looked at only where they do not
    few = polar.radius_shells[:: max(1, polar.n_shells // 7)], polar.theta_shell[:3]
    rows, found = np.arange(len(parameters)), []
    for suspected in np.array_split(rows, 1 + len(rows) // 10_000):
        doubtful = which_are_zero(suspected, *few)
        found += [
            which_are_zero(part, polar.radius_shells, polar.theta_shell)
            for part in np.array_split(doubtful, 1 + len(doubtful) // 64)
        ]
    without = np.concatenate(found)
    return list(_without_ctf(source.table, without).problems) if without.size else []


def source_problems(source: ImageSource) -> list[Problem]:
    """Find what is wrong with a converted set: files, and metadata that has changed since."""
    if not isinstance(source, ConvertedSource):
        return []
    folder = str(source.stacks.layout.folder)
    inputs = source.stacks.manifest.header.inputs
    n_metadata = len(source.table.metadata_files)
    changes = [change for record in inputs[:n_metadata] if (change := record.change())]
    problems = [
        Problem(
            message=f"{change}, but it says which rows the converted images belong to",
            file=folder,
            remedy="Convert the set anew, or score the metadata file itself.",
        )
        for change in changes
    ]
    if damaged := _damaged_files(source.stacks):
        message = f"{counted(len(damaged), 'file')} of the converted set cannot be used"
        remedy = "Convert the set again with --resume, which makes these anew."
        problems.append(Problem(message=message, file=folder, places=damaged, remedy=remedy))
    return problems


def _damaged_files(stacks: StackSet) -> list[str]:
    """Name files of images and their metadata that are not there, or not of the right size."""
    files = [
        file
        for record in stacks.stack_records
        for file in record.files
        if file.name not in stacks.layout.plot_names(record.index)
    ]
    faults = (file.fault(stacks.layout.folder, by_content=False) for file in files)
    return [fault for fault in faults if fault]
