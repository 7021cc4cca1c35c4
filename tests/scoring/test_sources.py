"""Blocks of images: which rows they hold, whatever is left out and wherever they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import SetBuilder

from cryolike.conversion import ConvertOptions, convert, plan_conversion
from cryolike.dataset import ParticleDataset
from cryolike.errors import ImageError, MetadataError
from cryolike.io.read import read_particles
from cryolike.particles import select_rows
from cryolike.scoring.sources import (
    ConvertedSource,
    ImageBlock,
    SetSource,
    rows_in_whole,
    source_problems,
)
from cryolike.store import open_stacks

N_ROWS = 15
EVERY_FOURTH = {i: range(4 * i, min(4 * i + 4, N_ROWS)) for i in range(4)}


def source_of(star_file: Path, on_bad_image: str = "error") -> SetSource:
    """Plan to convert a set."""
    options = ConvertOptions(on_bad_image=on_bad_image)  # type: ignore[arg-type]
    return SetSource(plan=plan_conversion(read_particles(star_file), None, options))


def blocks_of(
    source: SetSource | ConvertedSource, wanted: dict[int, range], *, skip: bool = False
) -> list[ImageBlock]:
    """Give all of them."""
    return list(source.blocks(wanted, "cpu", skip_unusable=skip))


@pytest.mark.parametrize("chosen", [[0, 1, 2, 3], [1, 3], [0], [2]])
def test_blocks_hold_their_rows(build: SetBuilder, chosen: list[int]) -> None:
    """Each wanted block has the images of its rows with their CTF, and no others come."""
    star_file = build.relion(order=[14, *range(14)]).path
    source = source_of(star_file)
    dataset = ParticleDataset(source.plan)
    blocks = blocks_of(source, {i: EVERY_FOURTH[i] for i in chosen})
    assert [block.index for block in blocks] == chosen
    for block in blocks:
        assert block.rows.tolist() == list(EVERY_FOURTH[block.index])
        assert block.rejected == ()
        for row, image, ctf in zip(block.rows, block.images, block.ctf, strict=True):
            assert torch.equal(image, dataset[int(row)].images)
            assert torch.equal(ctf, dataset[int(row)].ctf)


def test_converted_set_gives_the_same(build: SetBuilder, tmp_path: Path) -> None:
    """Blocks across the stacks of a converted set equal those made on the fly."""
    source = source_of(build.relion(order=[14, *range(14)]).path)
    convert(plan_conversion(source.table, None, ConvertOptions(batch_size=6)), tmp_path / "out")
    converted = ConvertedSource(stacks=open_stacks(tmp_path / "out"))
    assert source_problems(converted) == []
    assert converted.table.source_row.tolist() == list(range(N_ROWS))
    wanted = {1: range(3, 8), 2: range(8, 15)}
    pairs = zip(blocks_of(source, wanted), blocks_of(converted, wanted), strict=True)
    for ours, theirs in pairs:
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.ctf, theirs.ctf)
        assert (ours.index, ours.rows.tolist()) == (theirs.index, theirs.rows.tolist())


@pytest.mark.parametrize("blank", [[0], [3], [4, 5, 6, 7], [14], [0, 3, 4, 11, 12, 13, 14]])
def test_blank_images_are_left_out(build: SetBuilder, blank: list[int]) -> None:
    """The others stay in their blocks; a block of which nothing is left comes all the same."""
    images = build.noise(N_ROWS)
    images[blank] = 1.0
    source = source_of(build.relion(images=images).path, "skip")
    blocks = blocks_of(source, EVERY_FOURTH, skip=True)
    assert [block.index for block in blocks] == [0, 1, 2, 3]
    for block in blocks:
        rows = list(EVERY_FOURTH[block.index])
        assert block.rows.tolist() == [row for row in rows if row not in blank]
        assert len(block.images) == len(block.ctf) == len(block.rows)
        assert [reject[1] for reject in block.rejected] == [row for row in rows if row in blank]


@pytest.mark.parametrize("is_converted", [False, True])
def test_zero_ctf(build: SetBuilder, tmp_path: Path, is_converted: bool) -> None:
    """It is an error that names rows and remedy, or the images are left out."""
    scale = np.ones(N_ROWS)
    scale[[2, 9]] = 0
    star_file = build.relion(columns={"rlnCtfScalefactor": scale.tolist()}).path
    source: SetSource | ConvertedSource = source_of(star_file)
    if is_converted:
        convert(plan_conversion(read_particles(star_file)), tmp_path / "out")
        source = ConvertedSource(stacks=open_stacks(tmp_path / "out"))
    with pytest.raises(ImageError, match=r"row 2: .*CTF is zero everywhere") as caught:
        blocks_of(source, EVERY_FOURTH)
    assert "skip" in str(caught.value)
    blocks = blocks_of(source, EVERY_FOURTH, skip=True)
    assert sum(len(block.rows) for block in blocks) == N_ROWS - 2
    assert [r[1] for block in blocks for r in block.rejected] == [2, 9]
    assert all(len(block.images) == len(block.rows) for block in blocks)


def test_rows_in_the_whole_table(build: SetBuilder) -> None:
    """Rows of a chosen part are found again in the set."""
    table = select_rows(read_particles(build.relion().path), random=6, seed=1)
    source = SetSource(plan=plan_conversion(table))
    assert len(source.whole_table) == N_ROWS
    assert rows_in_whole(source, np.array([4, 1])).tolist() == table.source_row[[4, 1]].tolist()


def test_set_that_has_shrunk(build: SetBuilder) -> None:
    """Rows that are no longer in the file are an error."""
    built = build.relion()
    source = source_of(built.path)
    built.path.write_text("\n".join(built.path.read_text().splitlines()[:-2]) + "\n")
    with pytest.raises(MetadataError, match="not in it any more"):
        rows_in_whole(source, np.arange(N_ROWS))


def test_converted_set_whose_metadata_changed(build: SetBuilder, tmp_path: Path) -> None:
    """It is a problem, since the rows may be others."""
    built = build.relion()
    convert(plan_conversion(read_particles(built.path)), tmp_path / "out")
    built.path.write_text(built.path.read_text() + "\n")
    (problem,) = source_problems(ConvertedSource(stacks=open_stacks(tmp_path / "out")))
    assert "bytes and has" in problem.message


def test_images_on_disk_before_downsampling(build: SetBuilder) -> None:
    """Box and pixel size are those of the stacks."""
    plan = plan_conversion(
        read_particles(build.relion().path), None, ConvertOptions(downsample_factor=2)
    )
    grid = SetSource(plan=plan).on_disk
    assert (grid.side_px, grid.pixel_size_A) == (12, 2.0)
