"""What generated files are judged by: the checks find what is wrong, and nothing else."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from cryolike.errors import MetadataError, Notice, Problem
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.mrc_header import read_stack_header
from cryolike.io.star import read_star
from cryolike.particles import ParticleTable
from cryolike.testing import (
    StarFile,
    check_header,
    check_problems,
    check_table,
    damage_cs,
    damage_csg,
    damage_mrc,
    damage_npz,
    damage_set,
    damage_star,
    differences,
    make_cs_file,
    make_mrc_file,
    make_particle_set,
    make_star_file,
    result_or_refusal,
)


@pytest.fixture
def made() -> StarFile:
    """Make a file of five rows."""
    return make_star_file(Random(1), n_rows=5, pixel_size_A=2.0)


@pytest.fixture
def table(made: StarFile, tmp_path: Path) -> ParticleTable:
    """Read it."""
    return read_star(made.write(tmp_path / "a.star"))


def test_a_table_that_was_read_right_does_not_differ(made: StarFile, table: ParticleTable) -> None:
    """Neither from its meaning nor from what holds of every table."""
    assert differences(table, made.meaning) == []
    check_table(table)


def test_each_wrong_column_is_a_difference(made: StarFile, table: ParticleTable) -> None:
    """Changed in the last digits, in another unit, absent, or there though it was not meant."""
    changed = table.defocus_u_A.copy()
    changed[3] *= 1 + 1e-12
    for wrong, name in (
        (replace(table, defocus_u_A=changed), "defocus_u_A"),
        (replace(table, defocus_angle_rad=np.degrees(table.defocus_angle_rad)), "defocus_angle"),
        (replace(table, uid=np.arange(5, dtype=np.uint64)), "uid is not meant"),
        (replace(table, image_index=table.image_index + 1), "images are"),
        (replace(table, source_row=np.arange(5)[::-1].copy()), "source rows"),
        (replace(table, problems=(Problem(message="odd"),)), "a problem is reported: odd"),
        (table.take(np.arange(4)), "4 rows, meant 5"),
    ):
        assert any(name in difference for difference in differences(wrong, made.meaning)), name
    fewer = replace(made.meaning, columns={"defocus_u_A": made.meaning.columns["defocus_u_A"]})
    assert any("defocus_v_A is not meant" in d for d in differences(table, fewer))
    more = replace(made.meaning, columns={**made.meaning.columns, "uid": np.arange(5)})
    assert "uid is absent" in differences(table, more)


@pytest.mark.parametrize(
    "changes",
    [
        {"defocus_u_A": np.array([1e4, np.nan, 1e4, 1e4, 1e4])},
        {"defocus_u_A": np.full(5, 10_000)},
        {"image_file_index": np.full(5, 99)},
        {"metadata_index": np.full(5, -1)},
        {"image_index": np.full(5, -2)},
        {"pixel_size_A": np.full(5, np.inf)},
        {"contrast_sign": np.full(5, 0.5)},
        {"box_px": np.full(5, -1)},
        {"problems": (Problem(message="odd", rows=np.array([5])),)},
        {"problems": (Problem(message="odd", rows=np.array([2, 1])),)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_impossible_tables_are_found(table: ParticleTable, changes: dict[str, Any]) -> None:
    """Whatever a reader could have let through."""
    with pytest.raises(AssertionError):
        check_table(replace(table, **changes))


def test_rows_that_a_problem_names_may_hold_anything(table: ParticleTable) -> None:
    """They are skipped or refused before they are used."""
    bad = np.array([1e4, np.nan, 1e4, 1e4, 1e4])
    problem = Problem(message="rlnDefocusU is not a finite number", rows=np.array([1]))
    check_table(replace(table, defocus_u_A=bad, problems=(problem,)))


def test_a_problem_without_text_is_found() -> None:
    """It would print an empty line."""
    with pytest.raises(AssertionError, match="no text"):
        check_problems([Problem(message="")])


@pytest.mark.parametrize(
    "changes",
    [
        {"n_images": 0},
        {"n_images": 6},
        {"box_px": -4},
        {"data_offset": 1020},
        {"pixel_size_A": math.inf},
        {"notices": (Notice(""),)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_impossible_headers_are_found(tmp_path: Path, changes: dict[str, Any]) -> None:
    """No images, more than the file holds, pixels within the header."""
    made = make_mrc_file(Random(1), n_images=5, box_px=4, compression="")
    header = read_stack_header(made.write(tmp_path / "a.mrcs"))
    exact = replace(header, file_size=header.promised_bytes)
    check_header(exact)
    with pytest.raises(AssertionError):
        check_header(replace(exact, **changes))


def test_our_errors_are_refusals_and_others_pass() -> None:
    """Foreign errors and all warnings are raised."""

    def fails(error: Exception) -> None:
        raise error

    def warns() -> None:
        warnings.warn("odd", RuntimeWarning, stacklevel=1)

    assert result_or_refusal(max, 1, 2) == 2
    assert isinstance(result_or_refusal(fails, MetadataError("odd")), MetadataError)
    with pytest.raises(KeyError):
        result_or_refusal(fails, KeyError("odd"))
    with pytest.raises(RuntimeWarning):
        result_or_refusal(warns)


def test_a_number_decides_everything() -> None:
    """The same files come from the same number, so what was found can be found again."""

    def files(number: int) -> list[bytes]:
        random = Random(number)
        star, cs, mrc = make_star_file(random), make_cs_file(random), make_mrc_file(random)
        whole = make_particle_set(random)
        return [
            star.content,
            damage_star(random, star.content),
            damage_csg(random, star.content),
            cs.content,
            cs.passthrough,
            damage_cs(random, cs.content),
            damage_mrc(random, mrc.content),
            *whole.files.values(),
            *damage_set(random, whole).files.values(),
        ]

    for number in range(20):
        assert files(number) == files(number)
    assert files(1) != files(2)


def test_damage_changes_most_files() -> None:
    """Some damage happens to put the same bytes in their place, but not often."""
    n_changed = 0
    for number in range(100):
        random = Random(number)
        content = make_cs_file(random).content
        n_changed += damage_cs(random, content) != content
    assert n_changed > 80


def test_archives_stay_archives_when_an_array_is_damaged(tmp_path: Path) -> None:
    """Else only the archive would ever be found damaged."""
    np.savez(tmp_path / "a.npz", a=np.arange(3), b=np.array("text"))
    content = (tmp_path / "a.npz").read_bytes()
    damaged = [damage_npz(Random(number), content) for number in range(50)]
    n_archives = sum(file.startswith(b"PK") and file[-22:-18] == b"PK\5\6" for file in damaged)
    assert 25 < n_archives < 50
    assert damaged.count(content) < 10


def test_a_pickle_is_among_the_damage_and_is_not_run(tmp_path: Path) -> None:
    """It would end the program."""
    path = tmp_path / "a.cs"
    n_pickles = 0
    for number in range(400):
        random = Random(number)
        content = damage_cs(random, make_cs_file(random).content)
        if b"builtins\nexec" in content:
            n_pickles += 1
            path.write_bytes(content)
            assert isinstance(result_or_refusal(read_cryosparc, path), MetadataError)
    assert n_pickles > 3


def test_only_testing_needs_hypothesis() -> None:
    """The package is imported without it; `cryolike.testing` says what to install."""
    code = "import sys; sys.modules['hypothesis'] = None; import cryolike.cli.main; print('fine'); "
    code += "import cryolike.testing"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("fine\n", 1)
    last_line = done.stderr.splitlines()[-1]
    assert last_line.startswith("ModuleNotFoundError: cryolike.testing needs Hypothesis.")
    assert last_line.endswith("pip install 'cryolike[test]'")
