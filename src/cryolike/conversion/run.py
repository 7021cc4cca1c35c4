"""Carry out a plan: read, prepare, transform, write; bounded memory, resumable."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from cryolike.conversion.assembly import ConvertedBatch, Rows, StackAssembly
from cryolike.conversion.memory import Memory
from cryolike.conversion.plan import ConversionPlan
from cryolike.errors import Notice, OutputError, UsageError, counted
from cryolike.io.mrc import StackReader
from cryolike.physics.polar import PolarTransform
from cryolike.physics.preprocess import (
    Normalisation,
    central_disc_contrast,
    downsample,
    value_span,
)
from cryolike.store.layout import OutputLayout
from cryolike.store.manifest import InputRecord, RunHeader, checksum_of_rows
from cryolike.store.metadata import ImageStatistics
from cryolike.store.writer import CHOOSE_ANOTHER, RunFolder, check_free_space, writing
from cryolike.threads import n_usable_cores, single_threaded_workers

__all__ = ["ConversionReport", "ImageConverter", "convert", "resolve_device"]

logger = logging.getLogger(__name__)

_READ_BYTES = 32 * 2**20
"""Images read at once: enough for long runs of a file."""

_N_CHUNKS = 2
"""Chunks of images whose memory is kept for the next: one is read while another is converted."""

_BATCH_BYTES = 16 * 2**20
"""Polar images of a batch, which one thread makes and another writes."""

_N_WAITING = 2
"""Batches that wait for a thread or for the disk, so that neither waits for the other."""

_DEVICE_BATCH_BYTES = 256 * 2**20
"""The same on a GPU, which is idle between batches."""

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


class ImageConverter:
    """The steps from pixels as read to normalised polar images, set up once for a plan.

    Parameters
    ----------
    plan
        Its descriptor and options count.
    device
        Where the transform runs.
    keeps_pixels
        Whether normalised pixels are wanted too.

    Attributes
    ----------
    n_workers : int
        How many threads should convert at a time.
    n_in_batch : int
        How many images each of them should be given at once.
    """

    def __init__(
        self,
        plan: ConversionPlan,
        device: str | torch.device = "cpu",
        *,
        keeps_pixels: bool = False,
    ) -> None:
        self._options, self._keeps_pixels = plan.options, keeps_pixels
        self.transform = PolarTransform.of_descriptor(plan.descriptor, device)
        on_processor = self.transform.device.type == "cpu"
        batch_bytes = _BATCH_BYTES if on_processor else _DEVICE_BATCH_BYTES
        self.n_workers = n_usable_cores() if on_processor else 1
        self.n_in_batch = max(1, batch_bytes // plan.descriptor.polar_image_bytes)

    def __call__(
        self, images: torch.Tensor, contrast_factor: np.ndarray, out: torch.Tensor
    ) -> ConvertedBatch:
        """Convert images, in the calling thread.

        Parameters
        ----------
        images
            float32, (n_images, N, N), as on disk.
        contrast_factor
            +1 or −1 for each.
        out
            Complex, (n_images, n_shells, n_inplanes): gets the polar images, which mean nothing
            where an image is unusable.

        Returns
        -------
        ConvertedBatch
            The rest.
        """
        sign = torch.tensor(contrast_factor, dtype=torch.float64)
        pixels = images.to(self.transform.real_dtype)
        factor = self._options.downsample_factor
        if factor > 1:
            original_span = value_span(pixels).to(torch.float64)
            bright = pixels * sign.to(pixels.dtype)[:, None, None]
            pixels = downsample(bright, factor, self._options.downsample_type)
            normalisation = Normalisation.of_images(pixels)
        else:
            normalisation = Normalisation.of_images(pixels, sign)
            original_span = normalisation.span
        # What downsampling leaves below a millionth of the contrast is rounding
        blank = normalisation.span <= 1e-6 * original_span
        is_finite = torch.isfinite(original_span) & torch.isfinite(normalisation.mean)
        device = self.transform.device
        polar_images, power = self.transform.with_unit_power(
            pixels.to(device),
            out if device.type == "cpu" else None,
            normalisation=normalisation,
            n_threads=1,
        )
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
                image_mean=normalisation.mean.numpy(),
                image_largest=normalisation.largest.numpy(),
                polar_norm=power.sqrt().cpu().numpy(),
            ),
            pixels=normalisation.apply(pixels) if self._keeps_pixels else None,
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
    with writing(folder, CHOOSE_ANOTHER):
        _refuse_overwriting_sources(plan, layout)
    # Whatever can fail does so before results of an earlier run are touched
    converter = ImageConverter(plan, resolve_device(device), keeps_pixels=plan.options.plots)
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


class _Pipeline:
    """Reads ahead, transforms on all cores and writes behind, in constant memory.

    A few batches of images are under way at a time. Each takes a buffer for its polar images, which
    is free again when they are written.
    """

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
        box = plan.headers[0].box_px
        self._n_read = max(1, _READ_BYTES // (box * box * 4))
        self._memory = Memory(_N_CHUNKS)
        self._under_way: deque[tuple[Rows, torch.Tensor, Future[None]]] = deque()
        self._n_done = 0

    def run(self) -> None:
        """Make all stacks that are missing; nothing is left running afterwards."""
        todo = [stack for stack in self._plan.stacks if stack.index not in self._run.records]
        self._n_done = self._plan.n_images - sum(stack.stop - stack.start for stack in todo)
        self._report()
        chunks = [
            chunk
            for stack in todo
            for chunk in Rows(stack=stack, start=stack.start, stop=stack.stop).split(self._n_read)
        ]
        n_in_batch = self._converter.n_in_batch
        stacks = StackAssembly(self._plan, self._run, self._converter.transform.complex_dtype)
        with (
            stacks,
            ThreadPoolExecutor(1) as reading,
            ThreadPoolExecutor(1) as writing,
            single_threaded_workers(self._converter.n_workers) as working,
        ):
            try:
                ahead = [reading.submit(self._read, chunk) for chunk in chunks[:1]]
                for i, chunk in enumerate(chunks):
                    images = torch.from_numpy(ahead.pop().result())
                    ahead += [reading.submit(self._read, c) for c in chunks[i + 1 : i + 2]]
                    parts = chunk.split(n_in_batch)
                    for rows, few in zip(parts, torch.split(images, n_in_batch), strict=True):
                        buffer = self._free_buffer()
                        polar_images = buffer[: len(rows)]
                        factor = self._factor[rows.start : rows.stop]
                        batch = working.submit(self._converter, few, factor, polar_images)
                        written = writing.submit(stacks.write, rows, batch, polar_images)
                        self._under_way.append((rows, buffer, written))
                while self._under_way:
                    self._finish_oldest()
            except BaseException:
                stacks.stop()
                raise

    def _free_buffer(self) -> torch.Tensor:
        """Memory for polar images: new at first, then that of the oldest batch."""
        if len(self._under_way) == self._converter.n_workers + _N_WAITING:
            return self._finish_oldest()
        polar = self._plan.descriptor.polar_grid
        shape = (self._converter.n_in_batch, polar.n_shells, polar.n_inplanes)
        return torch.empty(shape, dtype=self._converter.transform.complex_dtype)

    def _finish_oldest(self) -> torch.Tensor:
        rows, buffer, written = self._under_way.popleft()
        written.result()
        self._n_done += len(rows)
        self._report()
        return buffer

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._n_done, self._plan.n_images)

    def _read(self, chunk: Rows) -> np.ndarray:
        rows = np.arange(chunk.start, chunk.stop)
        return read_rows(self._plan, self._reader, rows, self._memory)


def read_rows(
    plan: ConversionPlan, reader: StackReader, rows: np.ndarray, memory: Memory | None = None
) -> np.ndarray:
    """Read the images of some rows, each file once and in its own order.

    Parameters
    ----------
    plan
        Its table and headers count.
    reader
        To read with.
    rows
        Positions in the plan's table.
    memory
        Where the images go; new memory where it is not given.

    Returns
    -------
    ndarray
        float32, (n_rows, N, N), in the order of `rows`.
    """
    box = plan.headers[int(plan.table.image_file_index[rows[0]])].box_px
    (pixels,) = (memory or Memory(0)).tensors([((len(rows), box, box), torch.float32)])
    images: np.ndarray = pixels.numpy()
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
    n_images = plan.n_images
    if plan.options.on_bad_image == "skip":  # a stack with bad images is written once more
        n_images += max((stack.stop - stack.start for stack in plan.stacks), default=0)
    return max(0, n_images * plan.descriptor.polar_image_bytes - freed)


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
    n_sample = min(_N_SAMPLE, len(plan.table), max(_N_SAMPLE_LEAST, _READ_BYTES // (box * box * 4)))
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
