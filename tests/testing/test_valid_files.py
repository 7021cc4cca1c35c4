"""Generated valid files: what is read is what was meant, whatever way the file is written in."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings

from cryolike.conversion import plan_conversion
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.mrc_header import read_stack_header
from cryolike.io.star import read_star, read_star_without_names
from cryolike.testing import (
    CsFile,
    MrcFile,
    ParticleSet,
    StarFile,
    check_table,
    cs_files,
    differences,
    mrc_files,
    particle_sets,
    read_images,
    star_files,
)

few = settings(max_examples=30, derandomize=True)


@few
@given(star_files())
def test_star_files_mean_what_they_say(made: StarFile) -> None:
    """Every column, image name and row, in our units; with and without the image names."""
    with TemporaryDirectory() as folder:
        path = made.write(Path(folder) / "a.star")
        by_name, in_sequence = read_star(path), read_star_without_names(path)
        check_table(by_name)
        assert differences(by_name, made.meaning) == []
        assert differences(in_sequence, made.meaning_without_names) == []


@few
@given(cs_files())
def test_cs_files_mean_what_they_say(made: CsFile) -> None:
    """Also where some fields are in a passthrough file with its rows in another order."""
    with TemporaryDirectory() as folder:
        table = read_cryosparc(made.write(Path(folder) / "a.cs"))
        check_table(table)
        assert differences(table, made.meaning) == []


@few
@given(mrc_files())
def test_stacks_hold_the_pixels_that_were_written(made: MrcFile) -> None:
    """In all modes and byte orders, behind any header, compressed or not."""
    with TemporaryDirectory() as folder:
        header = read_stack_header(made.write(Path(folder) / f"a{made.suffix}"))
        assert (header.mode, header.compression) == (made.mode, made.compression)
        assert (header.n_images, header.box_px) == made.pixels.shape[:2]
        is_known = not math.isnan(made.pixel_size_A)
        assert math.isnan(header.pixel_size_A) != is_known
        assert not is_known or math.isclose(header.pixel_size_A, made.pixel_size_A, rel_tol=1e-6)
        np.testing.assert_array_equal(read_images(header), made.pixels)


@few
@given(particle_sets())
def test_sets_can_be_planned(made: ParticleSet) -> None:
    """Metadata and its stacks fit together: nothing is wrong with any row."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        made.write(folder)
        table = made.read(folder)
        plan = plan_conversion(table)
        assert plan.n_images == len(made.meaning)
        if made.kind in ("star", "cryosparc", "group"):
            assert differences(table, made.meaning) == []
        else:
            assert table.defocus_u_A.tolist() == made.meaning.columns["defocus_u_A"].tolist()
