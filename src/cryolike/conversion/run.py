"""Carry out a plan: read, prepare, transform, write; bounded memory, resumable."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryolike.conversion.plan import ConversionPlan, PlannedStack
from cryolike.errors import (
    ImageError,
    LazyPlaces,
    Notice,
    OutputError,
    Problem,
    UsageError,
    counted,
)
from cryolike.io.mrc import StackReader
from cryolike.physics.polar import PolarTransform, integrated_power
from cryolike.physics.preprocess import (
    central_disc_contrast,
    downsample,
    is_blank,
    normalise,
    value_span,
)
from cryolike.plot import N_SHOWN, stack_plots
from cryolike.store.layout import OutputLayout
from cryolike.store.manifest import (
    InputRecord,
    RunHeader,
    StackRecord,
    checksum_of_rows,
    ranges_of_rows,
)
from cryolike.store.metadata import ImageStatistics, arrays_of_stack
from cryolike.store.writer import RunFolder, StackContent, check_free_space

__all__ = ["ConversionReport", "ImageConverter", "convert", "resolve_device"]

logger = logging.getLogger(__name__)

_READ_BYTES = 64 * 2**20
"""Images read at once: enough for long runs of a file, small beside a stack."""

_IMAGES_AT_ONCE = 64

_N_SAMPLE = 100
"""Images looked at to tell whether protein is dark."""

_N_SAMPLE_LEAST = 20

_DARK_SIGMA = 4.0

Progress = Callable[[int, int], None]
"""Called with images done and images in all."""


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """What a conversion did.

    Parameters
    ----------
    folder
        Output folder.
    n_stacks
        Stacks in it.
    n_stacks_kept
        Of these, how many an earlier run had made.
    n_rows_in
        Rows chosen.
    n_images_out
        Images written or kept.
    rejects
        Rows left out because the caller chose to skip bad ones:
        (metadata file, source row, image name, reason).
    notices
        Defaults applied, doubtful values accepted.
    stopped_early
        Whether `n_stacks_max` ended the run before all rows were converted.
    seconds
        Wall time.
    """

    folder: Path
    n_stacks: int
    n_stacks_kept: int
    n_rows_in: int
    n_images_out: int
    rejects: tuple[tuple[int, int, str, str], ...] = field(repr=False, default=())
    notices: tuple[Notice, ...] = field(repr=False, default=())
    stopped_early: bool = False
    seconds: float = 0.0

    @property
    def warnings(self) -> tuple[str, ...]:
        """Notices that are warnings, as text."""
        return tuple(notice.message for notice in self.notices if notice.level == "warning")

    def describe(self) -> str:
        """Say in a few lines what was done."""
        lines = [
            f"{self.n_images_out:,} of {counted(self.n_rows_in, 'image')} in "
            f"{counted(self.n_stacks, 'stack')} in "
            f"{self.folder} ({self.seconds:.1f} s)"
        ]
        if self.n_stacks_kept:
            lines.append(f"kept from an earlier run: {counted(self.n_stacks_kept, 'stack')}")
        if self.rejects:
            lines.append(f"skipped: {counted(len(self.rejects), 'row')}, listed in rejects.csv")
        if self.stopped_early:
            lines.append("stopped early, as asked: not all rows are converted")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True, eq=False)
class ConvertedBatch:
    """Images of a batch after all steps.

    Parameters
    ----------
    unusable
        For each image in turn why it has no transform; empty where it has one.
    statistics
        Of all images; meaningless for unusable ones.
    shown
        The first few usable images, normalised, for plots.
    """

    unusable: list[str]
    statistics: ImageStatistics
    shown: torch.Tensor


class ImageConverter:
    """The steps from pixels as read to normalised polar images, set up once for a plan.

    Parameters
    ----------
    plan
        Its descriptor and options count.
    device
        Where the transform runs.
    """

    def __init__(self, plan: ConversionPlan, device: str | torch.device = "cpu") -> None:
        self._options = plan.options
        self.transform = PolarTransform.of_descriptor(plan.descriptor, device)

    def __call__(
        self, images: torch.Tensor, contrast_factor: np.ndarray, out: torch.Tensor
    ) -> ConvertedBatch:
        """Convert images.

        Parameters
        ----------
        images
            float32, (n_images, N, N), as on disk.
        contrast_factor
            +1 or −1 for each.
        out
            Complex, (n_images, n_shells, n_inplanes): gets the polar images; NaN where an image is
            unusable.

        Returns
        -------
        ConvertedBatch
            The rest.
        """
        dtype, device = self.transform.real_dtype, self.transform.device
        factor = torch.tensor(contrast_factor, dtype=dtype)
        span = value_span(images)
        is_finite = torch.isfinite(span)
        pixels = (images.to(dtype) * factor[:, None, None]).to(device)
        smaller = downsample(pixels, self._options.downsample_factor, self._options.downsample_type)
        blank = (span == 0) | is_blank(smaller, span.to(device)).cpu()
        prepared = normalise(smaller)
        polar_images = out if device.type == "cpu" else None
        polar_images = self.transform(prepared.images, out=polar_images)
        power = integrated_power(polar_images, self.transform.polar)
        polar_images *= power.rsqrt().to(dtype)[:, None, None]
        if polar_images is not out:
            out.copy_(polar_images)
        reasons = np.where(
            is_finite.numpy(),
            np.where(blank.numpy(), "blank: all pixels are equal", ""),
            "NaN or infinite pixels",
        )
        return ConvertedBatch(
            unusable=reasons.tolist(),
            statistics=ImageStatistics(
                contrast_factor=contrast_factor,
                image_mean=prepared.mean.cpu().numpy(),
                image_largest=prepared.largest.cpu().numpy(),
                polar_norm=power.sqrt().cpu().numpy(),
            ),
            shown=prepared.images[torch.from_numpy(reasons == "")][:N_SHOWN].cpu(),
        )


def convert(
    plan: ConversionPlan,
    folder_output: str | Path,
    *,
    skip_exist: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> ConversionReport:
    """Carry out a plan.

    Parameters
    ----------
    plan
        From `cryolike.conversion.plan_conversion`.
    folder_output
        Where to write; made where it does not exist.
    skip_exist
        Resume: keep the complete stacks of an earlier run of the same plan.
    overwrite
        Replace the results of an earlier run.
    device
        'cpu', 'cuda', or 'auto' for the GPU where there is one.
    progress
        Called as images are done.

    Returns
    -------
    ConversionReport
        Also where everything was there already.

    Raises
    ------
    ImageError
        Where images are blank or not finite and ``on_bad_image`` is 'error'. Complete stacks stay.
    UsageError
        Where both `skip_exist` and `overwrite` are asked for, or there is no such device.
    OutputError
        Where results cannot be written, or those of another run are in the way.
    """
    started = time.perf_counter()
    folder = Path(folder_output)
    if skip_exist and overwrite:
        raise UsageError(
            "Resuming (--resume, skip_exist) and overwriting (--overwrite, overwrite) contradict "
            "each other: choose one."
        )
    layout = OutputLayout(folder)
    _refuse_overwriting_sources(plan, layout)
    # Whatever can fail does so before results of an earlier run are touched
    converter = ImageConverter(plan, resolve_device(device))
    check_free_space(folder, _bytes_needed(plan, layout))
    with RunFolder(folder, _run_header(plan), skip_exist=skip_exist, overwrite=overwrite) as run:
        n_kept = len(run.records)
        dark: tuple[Notice, ...] = ()
        if not run.is_finished:
            with StackReader(scratch_folder=str(run.layout.wip)) as reader:
                dark = _dark_protein_notice(plan, reader)
                _Pipeline(plan, run, reader, converter, progress).run()
            run.finish(plan.rejects)
        records = list(run.records.values())
    return ConversionReport(
        folder=folder,
        n_stacks=sum(record.n_images > 0 for record in records),
        n_stacks_kept=n_kept,
        n_rows_in=plan.n_rows_in,
        n_images_out=sum(record.n_images for record in records),
        rejects=(*plan.rejects, *(r for record in records for r in record.rejected)),
        notices=(*plan.notices, *dark),
        stopped_early=plan.stopped_early,
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Chunk:
    """Images read at once, all of one output stack: rows `start` to `stop` of the table."""

    stack: PlannedStack
    start: int
    stop: int

    @property
    def ends_stack(self) -> bool:
        return self.stop == self.stack.stop


class _Pipeline:
    """Reads a chunk ahead and writes a stack behind while images are transformed."""

    def __init__(
        self,
        plan: ConversionPlan,
        run: RunFolder,
        reader: StackReader,
        converter: ImageConverter,
        progress: Progress | None,
    ) -> None:
        self._plan, self._run, self._reader = plan, run, reader
        self._converter, self._progress = converter, progress
        self._factor = contrast_factors(plan)

    def run(self) -> None:
        """Make all stacks that are missing; nothing is left running afterwards."""
        todo = [stack for stack in self._plan.stacks if stack.index not in self._run.records]
        n_done = self._plan.n_images - sum(stack.stop - stack.start for stack in todo)
        self._report(n_done)
        chunks = list(self._chunks(todo))
        with (
            ThreadPoolExecutor(1) as reading,
            ThreadPoolExecutor(1) as writing,
            _workers(self._converter.transform.device) as working,
        ):
            ahead = reading.submit(self._read, chunks[0]) if chunks else None
            behind: Future[StackRecord] | None = None
            parts: list[ConvertedBatch] = []
            for i, chunk in enumerate(chunks):
                if ahead is None:
                    break
                images = ahead.result()
                ahead = reading.submit(self._read, chunks[i + 1]) if i + 1 < len(chunks) else None
                if chunk.start == chunk.stack.start:
                    polar_images = self._new_stack(chunk.stack)
                    parts = []
                parts += self._converted(chunk, images, polar_images, working)
                n_done += chunk.stop - chunk.start
                if chunk.ends_stack:
                    content = self._content(chunk.stack, parts, polar_images)
                    if behind is not None:
                        behind.result()
                    behind = writing.submit(self._write, *content)
                self._report(n_done)
            if behind is not None:
                behind.result()

    def _converted(
        self,
        chunk: _Chunk,
        images: np.ndarray,
        polar_images: torch.Tensor,
        working: ThreadPoolExecutor,
    ) -> list[ConvertedBatch]:
        """Convert a chunk, few images at a time so that they stay in the processor's cache."""
        offset = chunk.start - chunk.stack.start

        def convert_few(start: int) -> ConvertedBatch:
            stop = min(start + _IMAGES_AT_ONCE, len(images))
            return self._converter(
                torch.from_numpy(images[start:stop]),
                self._factor[chunk.start + start : chunk.start + stop],
                polar_images[offset + start : offset + stop],
            )

        return list(working.map(convert_few, range(0, len(images), _IMAGES_AT_ONCE)))

    def _report(self, n_done: int) -> None:
        if self._progress is not None:
            self._progress(n_done, self._plan.n_images)

    def _chunks(self, stacks: list[PlannedStack]) -> Iterator[_Chunk]:
        box = self._plan.headers[0].box_px
        n_at_once = max(1, _READ_BYTES // (box * box * 4))
        for stack in stacks:
            for start in range(stack.start, stack.stop, n_at_once):
                yield _Chunk(stack=stack, start=start, stop=min(start + n_at_once, stack.stop))

    def _new_stack(self, stack: PlannedStack) -> torch.Tensor:
        polar = self._plan.descriptor.polar_grid
        shape = (stack.stop - stack.start, polar.n_shells, polar.n_inplanes)
        return torch.empty(shape, dtype=self._converter.transform.complex_dtype)

    def _read(self, chunk: _Chunk) -> np.ndarray:
        return read_rows(self._plan, self._reader, np.arange(chunk.start, chunk.stop))

    def _content(
        self, stack: PlannedStack, parts: list[ConvertedBatch], polar_images: torch.Tensor
    ) -> tuple[PlannedStack, np.ndarray, torch.Tensor, ImageStatistics, torch.Tensor, list[Any]]:
        """Leave out unusable images, or raise."""
        unusable = [reason for part in parts for reason in part.unusable]
        usable = np.array([not reason for reason in unusable])
        rows = np.arange(stack.start, stack.stop)
        table = self._plan.table
        rejected = [
            (
                int(table.metadata_index[row]),
                int(table.source_row[row]),
                table.image_name(int(row)),
                reason,
            )
            for row, reason in zip(rows, unusable, strict=True)
            if reason
        ]
        if rejected and self._plan.options.on_bad_image == "error":
            raise _unusable_images(self._plan, rejected)
        names = ImageStatistics.__dataclass_fields__
        statistics = ImageStatistics(
            **{
                name: np.concatenate([getattr(p.statistics, name) for p in parts])[usable]
                for name in names
            }
        )
        shown = torch.cat([part.shown for part in parts])[:N_SHOWN]
        if rejected:
            polar_images = polar_images[torch.from_numpy(usable)]
        return stack, rows[usable], polar_images, statistics, shown, rejected

    def _write(
        self,
        stack: PlannedStack,
        rows: np.ndarray,
        polar_images: torch.Tensor,
        statistics: ImageStatistics,
        shown: torch.Tensor,
        rejected: list[Any],
    ) -> StackRecord:
        plan = self._plan
        table = plan.table.take(rows)
        used = np.unique(plan.table.image_file_index[rows])
        paths = [plan.image_paths[i] for i in used]
        plots = {}
        if plan.options.plots and len(rows):
            names = OutputLayout.plot_names(stack.index)
            plots = dict(
                zip(names, stack_plots(shown, polar_images, plan.descriptor, table), strict=True)
            )
        metadata = arrays_of_stack(table, plan.descriptor, statistics, paths) if len(rows) else {}
        return self._run.write_stack(
            StackContent(
                index=stack.index,
                images=polar_images,
                metadata=metadata,
                rows=ranges_of_rows(table.metadata_index, table.source_row),
                rejected=tuple(rejected),
                plots=plots,
            )
        )


@contextmanager
def _workers(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Make a thread for each core we may use, in each of which PyTorch uses one.

    Threads of PyTorch's own wait for each other at every step, which is slow as soon as anything
    else, such as our reading and writing, wants a core.
    """
    n_workers = len(os.sched_getaffinity(0)) if device.type == "cpu" else 1
    n_before = torch.get_num_threads()
    set_one = partial(torch.set_num_threads, 1)
    try:
        with ThreadPoolExecutor(n_workers, initializer=set_one) as pool:
            yield pool
    finally:
        torch.set_num_threads(n_before)


def read_rows(plan: ConversionPlan, reader: StackReader, rows: np.ndarray) -> np.ndarray:
    """Read the images of some rows, each file once and in its own order.

    Parameters
    ----------
    plan
        Its table and headers count.
    reader
        To read with.
    rows
        Positions in the plan's table.

    Returns
    -------
    ndarray
        float32, (n_rows, N, N), in the order of `rows`.
    """
    box = plan.headers[int(plan.table.image_file_index[rows[0]])].box_px
    images = np.empty((len(rows), box, box), dtype=np.float32)
    files = plan.table.image_file_index[rows]
    order = np.argsort(files, kind="stable")
    edges = np.flatnonzero(np.diff(files[order], prepend=-1))
    for start, stop in zip(edges, [*edges[1:], len(rows)], strict=True):
        positions = order[start:stop]
        header = plan.headers[int(files[positions[0]])]
        reader.read(header, plan.table.image_index[rows[positions]], images, positions)
    return images


def contrast_factors(plan: ConversionPlan) -> np.ndarray:
    """Factor of each row that makes protein bright, as the options ask; float64, (n_rows,)."""
    n_rows, recorded = len(plan.table), plan.table.contrast_sign
    if plan.options.contrast == "recorded" and recorded is not None:
        return np.asarray(recorded, dtype=np.float64)
    return np.full(n_rows, -1.0 if plan.options.contrast == "invert" else 1.0)


def resolve_device(device: str) -> torch.device:
    """Choose the device; refuse one that is not there.

    Parameters
    ----------
    device
        'cpu', 'cuda', 'cuda:1', … or 'auto' for the GPU where there is one.

    Returns
    -------
    torch.device
        The log says which one 'auto' chose.

    Raises
    ------
    UsageError
        Where the machine has no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        logger.info("device: %s", device)
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        msg = f"device {device!r} is not known ({error}). Use cpu, cuda or auto."
        raise UsageError(msg) from error
    if chosen.type not in ("cpu", "cuda"):
        msg = f"device {device!r} is not supported. Use cpu, cuda or auto."
        raise UsageError(msg)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        msg = f"device {device!r} was asked for, but PyTorch finds no such GPU here."
        raise UsageError(msg)
    return chosen


def _run_header(plan: ConversionPlan) -> RunHeader:
    arrays = plan.descriptor.to_arrays()
    return RunHeader(
        program=f"cryolike {version('cryolike')}",
        kind=plan.table.kind,
        reader_arguments=dict(plan.table.reader_arguments),
        options=asdict(plan.options),
        descriptor={key: value.tolist() for key, value in arrays.items()},
        n_rows=plan.n_rows_in,
        rows=checksum_of_rows(plan.table.metadata_index, plan.table.source_row),
        n_stacks=len(plan.stacks),
        inputs=tuple(InputRecord.of_path(path) for path in plan.input_paths),
    )


def _bytes_needed(plan: ConversionPlan, layout: OutputLayout) -> int:
    """Bytes that the disk must have free: results there already are kept or replaced."""
    names = (layout.tensor_name(stack.index) for stack in plan.stacks)
    present = (layout.path(name) for name in names)
    freed = sum(path.stat().st_size for path in present if path.is_file())
    return max(0, plan.n_images * plan.descriptor.polar_image_bytes - freed)


def _refuse_overwriting_sources(plan: ConversionPlan, layout: OutputLayout) -> None:
    sources = {Path(path).resolve() for path in plan.input_paths}
    names = [layout.manifest.name, layout.rejects.name]
    for stack in plan.stacks:
        names += [
            layout.tensor_name(stack.index),
            layout.metadata_name(stack.index),
            *layout.plot_names(stack.index),
        ]
    # Results of an earlier run would be removed, so none of them may be a source either
    ours = [*map(layout.path, names), *layout.results_present()]
    clash = [path for path in ours if path.resolve() in sources]
    if clash:
        msg = f"{clash[0]} is a source file. Choose another output folder."
        raise OutputError(msg)


def _dark_protein_notice(plan: ConversionPlan, reader: StackReader) -> tuple[Notice, ...]:
    """Warn where a sample of the images says that protein is dark.

    The sample must hold at least 20 images, and the mean contrast of its central discs lie more
    than 4 standard errors below 0.
    """
    box = plan.headers[0].box_px
    n_sample = min(_N_SAMPLE, len(plan.table), max(1, _READ_BYTES // (box * box * 4)))
    rows = np.linspace(0, len(plan.table) - 1, n_sample).astype(np.int64)
    images = torch.from_numpy(read_rows(plan, reader, rows))
    contrast = central_disc_contrast(images).numpy() * contrast_factors(plan)[rows]
    contrast = contrast[np.isfinite(contrast)]
    if contrast.size < _N_SAMPLE_LEAST:
        return ()
    error = contrast.std(ddof=1) / np.sqrt(contrast.size)
    if not contrast.mean() < -_DARK_SIGMA * error:
        return ()
    remedy = "keep" if contrast_factors(plan)[rows].mean() < 0 else "invert"
    return (
        Notice(
            f"Protein looks dark in a sample of {contrast.size} images (central disc below the "
            f"background by {-contrast.mean() / error:.0f} standard errors). The likelihood "
            f"expects bright protein: convert with --contrast {remedy} if that is so."
        ),
    )


def _unusable_images(plan: ConversionPlan, rejected: list[Any]) -> ImageError:
    return ImageError(
        Problem(
            message=f"{len(rejected):,} images have no transform",
            remedy="Leave them out with --on-bad-image skip (on_bad_image='skip'). Complete stacks "
            "are kept.",
            file=", ".join(plan.table.metadata_files),
            places=LazyPlaces(
                len(rejected),
                lambda i: f"row {rejected[i][1]}: {rejected[i][2]} ({rejected[i][3]})",
            ),
            kind="image",
        )
    )
