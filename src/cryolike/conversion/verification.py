"""Check a converted set against its manifest, its metadata and its source images."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cryolike.conversion.plan import ConversionPlan, ConvertOptions, plan_conversion
from cryolike.conversion.run import ImageConverter, contrast_factors, read_rows
from cryolike.errors import CryoLikeError, IncompleteOutputError, counted
from cryolike.io.mrc import StackReader
from cryolike.io.read import read_table_again
from cryolike.store.layout import OutputLayout
from cryolike.store.manifest import rows_of_ranges
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
    damaged = _damaged_files(stacks, progress)
    faults = [*damaged.values(), *_folder_faults(stacks)]
    n_recomputed = 0
    if sources:
        inputs = stacks.manifest.header.inputs
        changed = {i.path: change for i in inputs if (change := i.change())}
        found, n_recomputed = _source_faults(stacks, damaged, changed, n_sample, seed)
        faults += [*changed.values(), *found]
    return VerificationReport(
        folder=Path(folder),
        faults=tuple(faults),
        n_files=len(stacks.manifest.all_files()) + 1,
        n_images=len(stacks),
        n_recomputed=n_recomputed,
    )


def _damaged_files(stacks: StackSet, progress: Callable[[int, int], None] | None) -> dict[str, str]:
    """Compare files with the manifest: what is wrong by the name of the file."""
    files = stacks.manifest.all_files()
    damaged = {}
    for i, file in enumerate(files):
        if fault := file.fault(stacks.layout.folder):
            damaged[file.name] = fault
        if progress is not None:
            progress(i + 1, len(files))
    return damaged


def _folder_faults(stacks: StackSet) -> list[str]:
    """Find what is in the folder besides, and stacks that the manifest lacks."""
    layout: OutputLayout = stacks.layout
    expected = {layout.path(file.name) for file in stacks.manifest.all_files()} | {layout.manifest}
    extra = [path for path in layout.results_present() if path not in expected]
    faults = [f"{path.relative_to(layout.folder)} is not of this set" for path in extra]
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


def _source_faults(
    stacks: StackSet,
    damaged: Collection[str],
    changed: Collection[str],
    n_sample: int,
    seed: int,
) -> tuple[list[str], int]:
    """Compare undamaged stacks with metadata and images read anew, where these did not change."""
    header = stacks.manifest.header
    whole = [
        i
        for i, stack in enumerate(stacks.stack_records)
        if not any(file.name in damaged for file in stack.files)
    ]
    if not whole:
        return [], 0
    try:
        stored = pd.concat([stacks.frame(i) for i in whole], ignore_index=True)
    except IncompleteOutputError as error:
        return [str(error)], 0
    rows = np.concatenate([rows_of_ranges(stacks.stack_records[i].rows) for i in whole])
    if not np.array_equal(rows[:, 1], stored["source_row"].to_numpy()):
        return ["the stacks hold other rows than the manifest lists"], 0
    if not set(changed) <= set(stored["image_file"]):
        # Metadata that changed describes other images
        return [], 0
    try:
        table = read_table_again(header.kind, header.reader_arguments)
    except CryoLikeError as error:
        return [f"the metadata cannot be read any more: {error}"], 0
    starts = np.searchsorted(table.metadata_index, np.arange(len(table.metadata_files)))
    positions = starts[rows[:, 0]] + rows[:, 1]
    if positions.max() >= len(table):
        return [f"the metadata has only {len(table):,} rows any more"], 0
    faults = [
        f"{name} differs from the metadata in {n:,} images"
        for name in CTF_COLUMNS
        if (n := int((getattr(table, name)[positions] != stored[name].to_numpy()).sum()))
    ]
    usable = np.flatnonzero(~stored["image_file"].isin(list(changed)))
    if usable.size == 0:
        return faults, 0
    chosen = np.sort(
        np.random.default_rng(seed).choice(usable, size=min(n_sample, usable.size), replace=False)
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
    found = _recomputed_faults(stacks, stored.iloc[chosen], plan)
    return faults + found, len(chosen)


def _recomputed_faults(stacks: StackSet, chosen: pd.DataFrame, plan: ConversionPlan) -> list[str]:
    """Compare chosen images with ones made anew; `plan` is for just these."""
    convert_images = ImageConverter(plan)
    polar = plan.descriptor.polar_grid
    position_of_stack = {stack.index: i for i, stack in enumerate(stacks.stack_records)}
    faults: dict[str, None] = {}
    with StackReader() as reader:
        for row, (_, recorded) in enumerate(chosen.iterrows()):
            try:
                images = torch.from_numpy(read_rows(plan, reader, np.array([row])))
                kept = stacks.images(position_of_stack[recorded["stack"]])
            except CryoLikeError as error:
                faults[str(error)] = None
                continue
            out = torch.empty(
                (1, polar.n_shells, polar.n_inplanes),
                dtype=convert_images.transform.complex_dtype,
            )
            convert_images(images, contrast_factors(plan)[row : row + 1], out)
            image = kept[recorded["index_in_stack"]]
            difference = float((out[0] - image).norm() / image.norm())
            if not difference < _RELATIVE_TOLERANCE[plan.descriptor.precision]:
                fault = (
                    f"image {recorded['index_in_stack']} of stack {recorded['stack']} (row "
                    f"{recorded['source_row']} of {recorded['metadata_file']}) is not that of its "
                    f"source: relative difference {difference:.2g}"
                )
                faults[fault] = None
    return list(faults)
