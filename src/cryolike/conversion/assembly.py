"""Batches of converted images put together to stacks, and written as they come."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch

from cryolike.conversion.plan import ConversionPlan, PlannedStack
from cryolike.errors import ImageError, LazyPlaces, Problem, counted
from cryolike.particles import ParticleTable
from cryolike.plot import StackPictures
from cryolike.store.layout import OutputLayout
from cryolike.store.manifest import ranges_of_rows
from cryolike.store.metadata import ImageStatistics, arrays_of_stack
from cryolike.store.writer import Reject, RunFolder, StackContent, TensorDraft

__all__ = ["ConvertedBatch", "Rows", "StackAssembly", "rejects_of", "unusable_images"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Rows `start` to `stop` of the table, all of one output stack."""

    stack: PlannedStack
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def split(self, n_at_once: int) -> list[Rows]:
        """Cut into parts of at most `n_at_once` rows."""
        starts = range(self.start, self.stop, n_at_once)
        return [Rows(stack=self.stack, start=i, stop=min(i + n_at_once, self.stop)) for i in starts]


@dataclass(frozen=True, kw_only=True, eq=False)
class ConvertedBatch:
    """Images of a batch after all steps, but for the polar images.

    Parameters
    ----------
    unusable
        For each image in turn why it has no transform; empty where it has one.
    statistics
        Of all images; meaningless for unusable ones.
    pixels
        All images, normalised; None where they are not wanted.
    """

    unusable: list[str]
    statistics: ImageStatistics
    pixels: torch.Tensor | None


class StackAssembly:
    """Writes batches, which come in row order, to stacks; a context manager.

    Parameters
    ----------
    plan
        That is carried out.
    run
        Folder to write to.
    dtype
        Of the polar images.
    """

    def __init__(self, plan: ConversionPlan, run: RunFolder, dtype: torch.dtype) -> None:
        self._plan, self._run, self._dtype = plan, run, dtype
        self._stack: _StackUnderWay | None = None
        self._is_stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._stack is not None:
            self._stack.close()

    def stop(self) -> None:
        """Write nothing more."""
        self._is_stopped = True

    def write(self, rows: Rows, batch: Future[ConvertedBatch], polar_images: torch.Tensor) -> None:
        """Write a batch when it is converted, and its stack when this was the last of it.

        Parameters
        ----------
        rows
            Of the batch.
        batch
            The rest of the batch.
        polar_images
            Complex, (n_images, n_shells, n_inplanes), there when the batch is.

        Raises
        ------
        ImageError
            At the end of a stack in which images have no transform, unless these are to be skipped.
        OutputError
            Where the disk is full or refuses.
        """
        try:
            converted = batch.result()
            if self._is_stopped:
                return
            if self._stack is None:
                self._stack = _StackUnderWay(self._plan, self._run, rows.stack, self._dtype)
            self._stack.add(converted, polar_images)
            if rows.stop == rows.stack.stop:
                self._stack.finish()
                self._stack.close()
                self._stack = None
        except BaseException:
            # Later batches are on their way, but the stack is not whole
            self._is_stopped = True
            raise


class _StackUnderWay:
    """One stack while its batches come."""

    def __init__(
        self, plan: ConversionPlan, run: RunFolder, stack: PlannedStack, dtype: torch.dtype
    ) -> None:
        self._plan, self._run, self._planned, self._dtype = plan, run, stack, dtype
        self._unusable: list[str] = []
        self._statistics: list[ImageStatistics] = []
        self._pictures = StackPictures()
        self._draft = self._new_draft(stack.stop - stack.start)

    def _new_draft(self, n_images: int, suffix: str = "") -> TensorDraft:
        polar = self._plan.descriptor.polar_grid
        shape = (n_images, polar.n_shells, polar.n_inplanes)
        return self._run.draft(self._planned.index, shape, self._dtype, suffix)

    def close(self) -> None:
        """Remove what is not finished."""
        self._draft.close()

    def add(self, batch: ConvertedBatch, polar_images: torch.Tensor) -> None:
        """Take in the next images."""
        self._draft.append(polar_images)
        self._unusable += batch.unusable
        self._statistics.append(batch.statistics)
        if batch.pixels is None:
            return
        if any(batch.unusable):
            usable = torch.tensor([not reason for reason in batch.unusable])
            self._pictures.add(batch.pixels[usable], polar_images[usable])
        else:
            self._pictures.add(batch.pixels, polar_images)

    def finish(self) -> None:
        """Write the stack without unusable images, or raise."""
        usable = np.array([not reason for reason in self._unusable])
        rows = np.arange(self._planned.start, self._planned.stop)
        rejected = rejects_of(self._plan.table, rows, self._unusable)
        if rejected and self._plan.options.on_bad_image == "error":
            remedy = "Leave them out with --on-bad-image skip (on_bad_image='skip'). Complete "
            raise unusable_images(self._plan.table, rejected, remedy + "stacks are kept.")
        rows = rows[usable]
        with ExitStack() as drafts:
            draft = self._draft_of(usable, drafts) if len(rows) else None
            table = self._plan.table.take(rows)
            self._run.write_stack(
                StackContent(
                    index=self._planned.index,
                    draft=draft,
                    metadata=self._metadata(rows, usable) if len(rows) else {},
                    rows=ranges_of_rows(table.metadata_index, table.source_row),
                    rejected=rejected,
                    plots=self._plots(rows) if len(rows) else {},
                )
            )

    def _draft_of(self, usable: np.ndarray, drafts: ExitStack) -> TensorDraft:
        """Give the draft of the usable images; a new one is closed with `drafts`."""
        if usable.all():
            return self._draft
        fewer = drafts.enter_context(self._new_draft(int(usable.sum()), ".usable"))
        for position in np.flatnonzero(usable):
            fewer.append(self._draft.read(int(position)))
        return fewer

    def _metadata(self, rows: np.ndarray, usable: np.ndarray) -> dict[str, np.ndarray]:
        plan = self._plan
        statistics = ImageStatistics(
            **{
                name: np.concatenate([getattr(part, name) for part in self._statistics])[usable]
                for name in ImageStatistics.__dataclass_fields__
            }
        )
        paths = [plan.image_paths[i] for i in np.unique(plan.table.image_file_index[rows])]
        return arrays_of_stack(plan.table.take(rows), plan.descriptor, statistics, paths)

    def _plots(self, rows: np.ndarray) -> dict[str, bytes]:
        if not self._plan.options.plots:
            return {}
        labels = [
            f"row {row}" for row in self._plan.table.source_row[rows[: StackPictures.N_SHOWN]]
        ]
        drawn = self._pictures.draw(self._plan.descriptor, labels)
        return dict(zip(OutputLayout.plot_names(self._planned.index), drawn, strict=True))


def rejects_of(
    table: ParticleTable, rows: np.ndarray, reasons: Sequence[str]
) -> tuple[Reject, ...]:
    """Name the images that have no transform.

    Parameters
    ----------
    table
        That the images are of.
    rows
        Positions in it.
    reasons
        Why each of these has none; empty where it has one.

    Returns
    -------
    tuple of Reject
        One for each reason.
    """
    return tuple(
        (
            int(table.metadata_index[row]),
            int(table.source_row[row]),
            table.image_name(int(row)),
            reason,
        )
        for row, reason in zip(rows, reasons, strict=True)
        if reason
    )


def unusable_images(table: ParticleTable, rejected: Sequence[Reject], remedy: str) -> ImageError:
    """Make the error that names images that have no transform.

    Parameters
    ----------
    table
        That the images are of.
    rejected
        From `rejects_of`.
    remedy
        What the user can do.

    Returns
    -------
    ImageError
        To be raised.
    """
    return ImageError(
        Problem(
            message=f"{counted(len(rejected), 'image')} cannot be transformed",
            remedy=remedy,
            file=", ".join(table.metadata_files),
            places=LazyPlaces(
                len(rejected),
                lambda i: f"row {rejected[i][1]}: {rejected[i][2]} ({rejected[i][3]})",
            ),
            kind="image",
        )
    )
