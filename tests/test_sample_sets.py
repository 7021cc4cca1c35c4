"""Sets that other programs wrote: what is valid converts, what is not says what to do.

What the readers make of single files is tested beside the readers; here the whole way counts.
"""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch

from cryolike.conversion import (
    ConvertOptions,
    SetSummary,
    convert,
    inspect_particles,
    plan_conversion,
    verify,
)
from cryolike.errors import CryoLikeError, StackError
from cryolike.io.mrc import StackReader
from cryolike.io.mrc_header import read_stack_header
from cryolike.io.pairs import read_pairs
from cryolike.io.read import read_particles
from cryolike.store import StackSet, open_stacks

# Each with the folder its stacks are in (empty: beside it), rows, box, and pixel size; the toy set
# has none in its metadata, so its caller says.
WHOLE_SETS = {
    "real/aspire/sample_particles_relion30.star": ("", 17, 200, None),
    "real/aspire/sample_particles_relion31.star": ("", 17, 200, None),
    "real/aspire/sample_relion_one_image.star": ("", 1, 200, None),
    "real/cryodrgn/relion5.star": ("real/cryodrgn/toy_datadir", 17, 30, None),
    "real/cryodrgn/toy_projections_dir.star": ("real/cryodrgn/toy_datadir", 1000, 30, 2.0),
    "relion-simulated/particles.star": ("", 360, 64, None),
}

WITHOUT_STACKS = {
    "real/star-only/relion_style_particles.star": (106, 1),
    "real/cryodrgn/FinalRefinement-OriginalParticles-PfCRT.star": (5, 1),
    "real/cryodrgn/cryosparc_J2_particles_exported.cs": (22, 1),
    "real/cryodrgn/cryosparc_P12_J24_001_particles.cs": (2019, 50),
}

UNREADABLE = (
    "real/odd-star/basic_double_quote.star",
    "real/odd-star/col_mismatch.star",
    "real/odd-star/dup.star",
    "real/odd-star/empty_loop.star",
    "real/odd-star/git_lfs_pointer.star",
    "real/odd-star/multi_line_c_engine.star",
    "real/odd-star/one_loop.star",
    "real/odd-star/particles_out.star",
    "real/odd-star/rln3.1_data_style.star",
    "real/odd-star/single_line_end_of_multiblock.star",
    "real/odd-star/two_loops_one_block.star",
    "real/odd-star/two_single_line_loop_blocks.star",
    "real/odd-cs/git_lfs_pointer.cs",
    "real/odd-cs/zero_byte.cs",
    "real/odd-cs/zero_rows.cs",
    "real/odd-cs/P9_J209_particles.csg",
)


def converted(
    path: Path, out: Path, folder: str = "", pixel_size_A: float | None = None
) -> StackSet:
    """Convert a set and open what came of it."""
    options = ConvertOptions(folder=folder, plots=False, batch_size=300, pixel_size_A=pixel_size_A)
    convert(plan_conversion(read_particles(path), None, options), out)
    return open_stacks(out)


@pytest.mark.parametrize("name", WHOLE_SETS)
def test_whole_sets_convert(shared_data: Path, tmp_path: Path, name: str) -> None:
    """Every valid set with its stacks inspects without a problem, converts in order, verifies."""
    subfolder, n_rows, box_px, pixel_size_A = WHOLE_SETS[name]
    folder = str(shared_data / subfolder) if subfolder else ""
    summary = inspect_particles(shared_data / name, folder=folder)
    assert summary.problems == ()
    assert summary.n_rows == n_rows
    assert summary.boxes_px == {box_px: n_rows}
    stacks = converted(shared_data / name, tmp_path / "out", folder, pixel_size_A)
    assert stacks.table["source_row"].tolist() == list(range(n_rows))
    assert all(bool(torch.isfinite(images.abs()).all()) for images in stacks)
    report = verify(tmp_path / "out", n_sample=5)
    assert report.faults == ()


@pytest.mark.parametrize("name", WHOLE_SETS)
def test_images_are_those_the_rows_name(shared_data: Path, tmp_path: Path, name: str) -> None:
    """The mean of each converted image is that of the image its row names, as mrcfile reads it."""
    subfolder, *_, pixel_size_A = WHOLE_SETS[name]
    path = shared_data / name
    images_in = shared_data / subfolder if subfolder else path.parent
    stacks = converted(path, tmp_path / "out", str(images_in) if subfolder else "", pixel_size_A)
    blocks = starfile.read(path, always_dict=True)
    named = next(block for block in blocks.values() if "rlnImageName" in block)["rlnImageName"]
    names = [named] if isinstance(named, str) else list(named)
    opened: dict[str, np.ndarray] = {}
    for image_name, mean in zip(names, stacks.table["image_mean"], strict=True):
        number, stack = image_name.split("@")
        if stack not in opened:
            pixels = mrcfile.read(images_in / stack)
            opened[stack] = pixels.reshape(-1, *pixels.shape[-2:])
        expected = opened[stack][int(number) - 1].mean(dtype=np.float64)
        assert mean == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", WITHOUT_STACKS)
def test_sets_without_their_stacks_are_described(shared_data: Path, name: str) -> None:
    """Only the stacks are missing: one problem with a remedy, and everything else is told."""
    n_rows, n_files = WITHOUT_STACKS[name]
    summary = inspect_particles(shared_data / name)
    assert (summary.n_rows, summary.n_files, summary.n_files_found) == (n_rows, n_files, 0)
    assert_metadata_is_told(summary)
    assert len(summary.problems) == 1
    problem = summary.problems[0]
    assert f"{n_files} of {n_files} files not found ({n_rows:,} of {n_rows:,} rows)" in problem
    assert "→" in problem
    assert "--folder" in problem


def assert_metadata_is_told(summary: SetSummary) -> None:
    """Check that figures that need no stack are there, and could be those of a microscope."""
    assert sum(group.n_rows for group in summary.optics) == summary.n_rows
    assert all(group.voltage_kV in (200, 300) for group in summary.optics)
    assert summary.defocus_A is not None
    low, high = summary.defocus_A
    assert 3_000 < low < high < 50_000
    assert len(summary.pixel_sizes_A) == 1
    assert 0.5 < summary.pixel_sizes_A[0] < 4


def test_generic_rows_need_only_a_stack(shared_data: Path, tmp_path: Path) -> None:
    """The generic sample reads in full, asks for its stack, and converts with one of its size."""
    path = shared_data / "real/star-only/particle_data.star"
    summary = inspect_particles(path)
    assert (summary.kind, summary.n_rows, summary.problems) == ("paired", 483, ())
    assert any("--mrc" in warning for warning in summary.warnings)
    stack = tmp_path / "stack.mrcs"
    noise = np.random.default_rng(0).normal(size=(483, 16, 16)).astype(np.float32)
    with mrcfile.new(stack) as file:
        file.set_data(noise)
        file.set_image_stack()
        file.voxel_size = 2.0
    convert(plan_conversion(read_pairs([path], [stack])), tmp_path / "out")
    table = open_stacks(tmp_path / "out").table
    np.testing.assert_allclose(table["image_mean"], noise.mean(axis=(1, 2)), atol=1e-6)
    rows = next(iter(starfile.read(path, always_dict=True).values()))
    np.testing.assert_allclose(table["defocus_u_A"], rows["rlnDefocusU"])


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_files_say_what_to_do(shared_data: Path, name: str) -> None:
    """Each fault names a file, says what is wrong there, and has a remedy."""
    with pytest.raises(CryoLikeError) as caught:
        inspect_particles(shared_data / name)
    for problem in caught.value.problems:
        text = str(problem)
        assert str((shared_data / name).parent) in text
        assert "\n    → " in text
        assert len(problem.message) > 10


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("real/aspire/sample_incomplete_ctf_params.star", ["rlnVoltage"]),
        ("real/odd-star/bad_rows.star", ["line 7: 1 value", "rlnDefocusV", "files not found"]),
        ("real/odd-star/zero.star", ["counts images from 1", "rlnDefocusU", "files not found"]),
    ],
)
def test_faulty_rows_are_told_all_at_once(
    shared_data: Path, tmp_path: Path, name: str, faults: list[str]
) -> None:
    """Inspecting lists each fault, converting refuses with the same list and writes nothing."""
    summary = inspect_particles(shared_data / name)
    assert len(summary.problems) == len(faults)
    with pytest.raises(CryoLikeError) as caught:
        converted(shared_data / name, tmp_path / "out", pixel_size_A=2.0)
    for fault in faults:
        assert any(fault in problem for problem in summary.problems)
        assert fault in str(caught.value)
    assert all("→" in problem for problem in summary.problems)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "n_images", "box_px", "mode"),
    [
        ("hand.5.mrcs", 5, 64, 2),
        ("TwoImages.mrc", 2, 220, 2),
        ("float16.mrc", 1, 64, 12),
        ("emd_3197.map.gz", 20, 20, 2),
        ("EMD-3197.map.bz2", 20, 20, 2),
    ],
)
def test_odd_stacks_can_be_converted(
    shared_data: Path, name: str, n_images: int, box_px: int, mode: int
) -> None:
    """Missing identifiers, half precision and compression are no obstacle to reading images."""
    header = read_stack_header(shared_data / "real/odd-mrc" / name)
    assert (header.n_images, header.box_px, header.mode) == (n_images, box_px, mode)
    images = np.empty((n_images, box_px, box_px), dtype=np.float32)
    with StackReader() as reader:
        reader.read(header, np.arange(n_images), images, np.arange(n_images))
    assert np.isfinite(images).all()
    assert (images.std(axis=(1, 2)) > 0).any()


@pytest.mark.parametrize("name", ["header_only.mrc", "swapped_byte_order.mrc"])
def test_stacks_that_cannot_be_used_say_what_to_do(shared_data: Path, name: str) -> None:
    """Each is named, with what is wrong and a remedy."""
    with pytest.raises(StackError) as caught:
        read_stack_header(shared_data / "real/odd-mrc" / name)
    assert name in str(caught.value)
    assert "→" in str(caught.value)
