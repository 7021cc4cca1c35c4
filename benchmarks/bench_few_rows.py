"""`convert` of a few images of a huge stack against reading just these."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import references
from measure import Comparison, Way, compare, main, scratch_folder, spoken, time_in_turn
from mrcfile.dtypes import HEADER_DTYPE
from sets import image_names, make_stack, plan_of, start_alike, write_star

from cryolike import convert
from cryolike.store.writer import check_free_space


def make_sparse_set(folder: Path, n_stored: int, n_images: int, n_pixels: int) -> Path:
    """Make a stack of which only some images, at random, take room on the disk, and their rows."""
    chosen = np.random.default_rng(0).permutation(n_stored)[:n_images]
    make_stack(folder / "huge.mrcs", n_stored, n_pixels, filled=np.sort(chosen))
    write_star(folder / "few.star", image_names("huge.mrcs", chosen))
    return folder / "few.star"


def n_bytes_read() -> int:
    """Bytes that this process has read so far."""
    return int(Path("/proc/self/io").read_text().partition("rchar: ")[2].split()[0])


def run(
    n_pixels: int = 128, n_stored: int = 327_680, n_images: int = 16_384, n_runs: int = 3
) -> list[Comparison]:
    """Compare without plots; the images are on the disk, and not in the system's cache."""
    with scratch_folder() as folder:
        # The images, and twice their polar images, which are four times as large
        check_free_space(folder, 10 * n_images * n_pixels**2 * 4)
        plan = plan_of(make_sparse_set(folder, n_stored, n_images, n_pixels))
        (source,) = plan.image_paths
        image_bytes = n_pixels**2 * 4
        out, plain = folder / "out", folder / "plain"
        convert(plan, out)
        sizes = references.sizes_of_files(out)
        read: list[int] = []

        def convert_few() -> None:
            before = n_bytes_read()
            convert(plan, out)
            read.append(n_bytes_read() - before)

        def read_alone() -> None:
            with Path(source).open("rb") as file:
                for index in np.sort(plan.table.image_index).tolist():
                    offset = HEADER_DTYPE.itemsize + index * image_bytes
                    os.pread(file.fileno(), image_bytes, offset)

        def prepare() -> None:
            for results in (out, plain):
                shutil.rmtree(results, ignore_errors=True)
            start_alike([source], is_cold=True)

        share, size = n_images / n_stored, n_stored * image_bytes / 1e9
        name = f"convert, {share:.0%} of a stack of {spoken(size)} GB"
        ours, reading, *others = time_in_turn(
            Way(name=name, work=convert_few, amount=n_images),
            Way(name="reading these images", work=read_alone, amount=n_images),
            references.transform_alone(plan.descriptor, n_images),
            references.plain_write(plain, sizes, n_images),
            n_runs=n_runs,
            before_each=prepare,
        )
        needed = n_images * image_bytes
        return [
            compare(ours, reading, at_least=0.5),
            compare(ours, reading, *others, at_least=0.5),
            Comparison(
                name=f"{name}: bytes read",
                measured=f"{max(read) / 1e6:,.1f} MB",
                reference=f"these images ({needed / 1e6:,.1f} MB)",
                ratios=tuple(n_bytes / needed for n_bytes in read[-n_runs:]),
                at_most=1.2,
            ),
        ]


if __name__ == "__main__":
    main(run)
