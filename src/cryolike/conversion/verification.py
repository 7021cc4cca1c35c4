"""Check a converted set against its manifest, its metadata and its source images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cryolike.conversion.plan import ConversionPlan, ConvertOptions, plan_conversion
from cryolike.conversion.run import ImageConverter, contrast_factors, read_rows
from cryolike.errors import CryoLikeError, counted
from cryolike.io.mrc import StackReader
from cryolike.io.read import read_table_again
from cryolike.store.layout import OutputLayout
from cryolike.store.manifest import checksum_of_file, rows_of_ranges
from cryolike.store.metadata import CTF_COLUMNS
from cryolike.store.reader import StackSet, open_stacks

__all__ = ["VerificationReport", "verify"]

_RELATIVE_TOLERANCE = {"single": 1e-5, "double": 1e-10}


@dataclass(frozen=True, kw_only=True)
class VerificationReport:
    """What was found wrong.

    Parameters
    ----------
    folder
        Output folder.
    faults
        One sentence each; none if the set is good.
    n_files, n_images
        That were checked.
    n_recomputed
        Images computed anew from their source and compared.
    """

    folder: Path
    faults: tuple[str, ...]
    n_files: int = 0
    n_images: int = 0
    n_recomputed: int = 0

    @property
    def is_good(self) -> bool:
        """Whether nothing was found."""
        return not self.faults

    def describe(self) -> str:
        """Say in a few lines what was checked and found."""
        if self.is_good:
            return (
                f"{self.folder} is complete and unchanged: {self.n_files:,} files, "
                f"{self.n_images:,} images, {self.n_recomputed:,} of them computed anew from the "
                "source and equal"
            )
        listed = "\n".join(f"    {fault}" for fault in self.faults)
        return f"{self.folder}: {counted(len(self.faults), 'fault')}\n{listed}"


def verify(
    folder: str | Path,
    *,
    n_sample: int = 64,
    seed: int = 0,
    sources: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> VerificationReport:
    """Check that a converted set is whole, unchanged, and what its source says.

    Every file of ours is compared with its checksum; then, where `sources` is true, the source
    files with their recorded size and time, the CTF parameters of all images with the metadata
    read anew, and a random sample of images with ones computed anew.

    Parameters
    ----------
    folder
        Output folder.
    n_sample
        Images to compute anew.
    seed
        Of the choice.
    sources
        Whether to look at the source files.
    progress
        Called with files checked and files in all.

    Returns
    -------
    VerificationReport
        With everything that was found.
    """
    try:
        stacks = open_stacks(folder)
    except CryoLikeError as error:
        return VerificationReport(folder=Path(folder), faults=(str(error),))
    faults = _file_faults(stacks, progress)
    n_recomputed = 0
    if sources:
        changes = [change for i in stacks.manifest.header.inputs if (change := i.change())]
        faults += changes
        if not faults:
            found, n_recomputed = _source_faults(stacks, n_sample, seed)
            faults += found
    return VerificationReport(
        folder=Path(folder),
        faults=tuple(faults),
        n_files=len(stacks.manifest.all_files()) + 1,
        n_images=len(stacks),
        n_recomputed=n_recomputed,
    )


def _file_faults(stacks: StackSet, progress: Callable[[int, int], None] | None) -> list[str]:
    layout: OutputLayout = stacks.layout
    files = stacks.manifest.all_files()
    faults = []
    for i, file in enumerate(files):
        path = layout.path(file.name)
        if not path.is_file():
            faults.append(f"{file.name} is missing")
        elif path.stat().st_size != file.n_bytes:
            size = path.stat().st_size
            faults.append(f"{file.name} has {size:,} bytes, was written with {file.n_bytes:,}")
        elif checksum_of_file(path) != file.xxh3_128:
            faults.append(f"{file.name} was changed: its checksum differs")
        if progress is not None:
            progress(i + 1, len(files))
    expected = {layout.path(file.name) for file in files} | {layout.manifest}
    extra = [path for path in layout.results_present() if path not in expected]
    faults += [f"{path.relative_to(layout.folder)} is not of this set" for path in extra]
    if layout.wip.exists():
        faults.append(
            f"a folder '{layout.wip.name}' is there: another run has begun and not finished"
        )
    if len(stacks.manifest.stacks) != stacks.manifest.header.n_stacks:
        faults.append(
            f"the manifest lists {len(stacks.manifest.stacks):,} stacks of "
            f"{stacks.manifest.header.n_stacks:,}"
        )
    return faults


def _source_faults(stacks: StackSet, n_sample: int, seed: int) -> tuple[list[str], int]:
    """Compare with metadata and images read anew."""
    header = stacks.manifest.header
    stored = stacks.table
    if stored.empty:
        return [], 0
    listed = [rows_of_ranges(stack.rows) for stack in stacks.stack_records]
    rows = np.concatenate(listed) if listed else np.empty((0, 2), dtype=np.int64)
    if not np.array_equal(rows[:, 1], stored["source_row"].to_numpy()):
        return ["the stacks hold other rows than the manifest lists"], 0
    try:
        table = read_table_again(header.kind, header.reader_arguments)
    except CryoLikeError as error:
        return [f"the metadata cannot be read any more: {error}"], 0
    starts = np.searchsorted(table.metadata_index, np.arange(len(table.metadata_files)))
    positions = starts[rows[:, 0]] + rows[:, 1]
    faults = [
        f"{name} differs from the metadata in {n:,} images"
        for name in CTF_COLUMNS
        if (n := int((getattr(table, name)[positions] != stored[name].to_numpy()).sum()))
    ]
    chosen = np.sort(
        np.random.default_rng(seed).choice(
            len(stored), size=min(n_sample, len(stored)), replace=False
        )
    )
    # Where each image was found then: names in metadata can depend on the working directory
    files, file_index = np.unique(stored["image_file"].iloc[chosen], return_inverse=True)
    table = replace(
        table.take(positions[chosen]), image_files=tuple(files), image_file_index=file_index
    )
    options = replace(ConvertOptions(**header.options), folder="")
    try:
        plan = plan_conversion(table, stacks.descriptor, options)
    except CryoLikeError as error:
        return [*faults, f"the source does not fit any more: {error}"], 0
    return faults + _recomputed_faults(stacks, chosen, plan), len(chosen)


def _recomputed_faults(stacks: StackSet, chosen: np.ndarray, plan: ConversionPlan) -> list[str]:
    """Compare chosen images with ones made anew; `plan` is for just these."""
    convert_images = ImageConverter(plan)
    stored: pd.DataFrame = stacks.table.iloc[chosen]
    polar = plan.descriptor.polar_grid
    faults = []
    with StackReader() as reader:
        for row, (_, recorded) in enumerate(stored.iterrows()):
            images = torch.from_numpy(read_rows(plan, reader, np.array([row])))
            out = torch.empty(
                (1, polar.n_shells, polar.n_inplanes),
                dtype=convert_images.transform.complex_dtype,
            )
            convert_images(images, contrast_factors(plan)[row : row + 1], out)
            kept = stacks[int(chosen[row])].polar_image
            error = float((out[0] - kept).norm() / kept.norm())
            if not error < _RELATIVE_TOLERANCE[plan.descriptor.precision]:
                faults.append(
                    f"image {recorded['index_in_stack']} of stack {recorded['stack']} (row "
                    f"{recorded['source_row']} of {recorded['metadata_file']}) is not that of its "
                    f"source: relative difference {error:.2g}"
                )
    return faults
