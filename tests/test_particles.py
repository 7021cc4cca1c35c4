"""The table of particles: choosing, joining and naming rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryolike.errors import Notice, Problem, UsageError
from cryolike.particles import ParticleTable, concatenate_tables, select_rows

REQUIRED = (
    "defocus_u_A",
    "defocus_v_A",
    "defocus_angle_rad",
    "phase_shift_rad",
    "spherical_aberration_mm",
    "voltage_kV",
    "amplitude_contrast",
    "ctf_bfactor_A2",
    "ctf_scale",
    "pixel_size_A",
)


def table_of(n_rows: int = 6, name: str = "a", **further: Any) -> ParticleTable:
    """Rows in turns from two stacks, with values that tell the row."""
    number = np.arange(n_rows)
    values: dict[str, Any] = {
        "kind": "star",
        "metadata_files": (f"{name}.star",),
        "metadata_index": np.zeros(n_rows, dtype=np.int64),
        "source_row": number.copy(),
        "image_files": (f"{name}0.mrcs", f"{name}1.mrcs"),
        "image_file_index": number % 2,
        "image_index": number // 2,
        **{column: number + 0.5 + i for i, column in enumerate(REQUIRED)},
    }
    return ParticleTable(**{**values, **further})


def names(table: ParticleTable) -> list[str]:
    """Names of all images."""
    return [table.image_name(row) for row in range(len(table))]


def test_images_are_named_as_relion_does() -> None:
    """Counted from 1; a name without a number stays without."""
    table = table_of(2, image_index=np.array([41, -1]))
    assert names(table) == ["000042@a0.mrcs", "a1.mrcs"]


def test_columns_of_other_length_are_refused() -> None:
    """The message names the column."""
    with pytest.raises(ValueError, match="voltage_kV"):
        table_of(3, voltage_kV=np.zeros(4))


def test_columns_cannot_be_changed() -> None:
    """A table is a value."""
    with pytest.raises(ValueError, match="read-only"):
        table_of().voltage_kV[0] = 1


@given(data=st.data())
def test_chosen_rows_keep_everything(data: st.DataObject) -> None:
    """In any order each row keeps its values, image and problems."""
    n_rows = data.draw(st.integers(1, 8))
    order = data.draw(st.permutations(range(n_rows)))
    rows = np.array(order[: data.draw(st.integers(1, n_rows))])
    bad = sorted(data.draw(st.sets(st.integers(0, n_rows - 1), min_size=1)))
    of_rows = Problem(message="bad", rows=np.array(bad), places=[f"row {row}" for row in bad])
    of_all = Problem(message="everywhere")
    table = table_of(
        n_rows,
        problems=(of_rows, of_all),
        rot_rad=np.arange(n_rows) / 7,
        uid=np.uint64(2**63) + np.arange(n_rows, dtype=np.uint64),
        notices=(Notice("noted"),),
    )
    taken = table.take(rows)
    assert names(taken) == [table.image_name(row) for row in rows.tolist()]
    assert set(taken.image_files) == {
        table.image_files[table.image_file_index[row]] for row in rows
    }
    for column in (*REQUIRED, "source_row", "rot_rad", "uid"):
        np.testing.assert_array_equal(getattr(taken, column), getattr(table, column)[rows])
    assert taken.uid is not None
    assert taken.uid.dtype == np.uint64
    assert taken.psi_rad is None
    assert taken.notices == table.notices
    left = {
        int(taken.source_row[row]) for p in taken.problems if p.rows is not None for row in p.rows
    }
    assert left == set(bad) & set(rows.tolist())
    places = {place for p in taken.problems if p.rows is not None for place in p.places}
    assert places == {f"row {row}" for row in left}
    assert [p.message for p in taken.problems if p.rows is None] == ["everywhere"]


def test_joined_tables_count_files_through() -> None:
    """Rows in order of the tables; files and problems keep to their rows."""
    problem = Problem(message="bad", rows=np.array([1]), places=["row 1"])
    joined = concatenate_tables(
        [table_of(2, "a"), table_of(3, "b", problems=(problem,)), table_of(1, "c")]
    )
    assert joined.metadata_files == ("a.star", "b.star", "c.star")
    assert joined.metadata_index.tolist() == [0, 0, 1, 1, 1, 2]
    assert joined.source_row.tolist() == [0, 1, 0, 1, 2, 0]
    assert names(joined) == [
        "000001@a0.mrcs",
        "000001@a1.mrcs",
        "000001@b0.mrcs",
        "000001@b1.mrcs",
        "000002@b0.mrcs",
        "000001@c0.mrcs",
    ]
    (moved,) = joined.problems
    assert moved.rows is not None
    assert moved.rows.tolist() == [3]


def test_column_that_one_table_lacks_is_dropped() -> None:
    """A value for some rows only is none."""
    posed = table_of(2, rot_rad=np.ones(2), class_label=np.array(["1", "2"]))
    joined = concatenate_tables([posed, table_of(2, class_label=np.array(["3", "4"]))])
    assert joined.rot_rad is None
    assert joined.class_label is not None
    assert joined.class_label.tolist() == ["1", "2", "3", "4"]


def test_equal_notices_of_joined_tables_are_one() -> None:
    """In the order of the first of each."""
    first, second = Notice("first"), Notice("second", "note")
    joined = concatenate_tables(
        [table_of(1, notices=(first,)), table_of(1, notices=(second, first))]
    )
    assert joined.notices == (first, second)


@pytest.mark.parametrize(
    ("angle", "has_poses"), [(None, False), (np.zeros(2), False), (np.array([0, 0.1]), True)]
)
def test_poses_that_are_all_zero_are_none(angle: np.ndarray | None, has_poses: bool) -> None:
    """Never aligned particles carry zeros."""
    assert table_of(2, rot_rad=angle, tilt_rad=angle).has_poses is has_poses


# Choice


def chosen(table: ParticleTable) -> list[int]:
    """Source rows of a table."""
    rows: list[int] = table.source_row.tolist()
    return rows


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (slice(2, 4), [2, 3]),
        (slice(None, 2), [0, 1]),
        (slice(4, None), [4, 5]),
        (slice(0, 99), [0, 1, 2, 3, 4, 5]),
        (None, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_range_of_rows(rows: slice | None, expected: Sequence[int]) -> None:
    """Half open, counted from 0."""
    assert chosen(select_rows(table_of(), rows=rows)) == list(expected)


def test_random_rows_keep_their_order_and_depend_on_the_seed() -> None:
    """Without replacement; the same seed gives the same rows."""
    table = table_of(100)
    first = chosen(select_rows(table, random=30, seed=1))
    assert first == sorted(set(first))
    assert len(first) == 30
    assert chosen(select_rows(table, random=30, seed=1)) == first
    assert chosen(select_rows(table, random=30, seed=2)) != first


def test_rows_of_a_class() -> None:
    """Within the range of rows."""
    table = table_of(6, class_label=np.array(["1", "2", "1", "10", "1", "2"]))
    assert chosen(select_rows(table, class_label="1")) == [0, 2, 4]
    assert chosen(select_rows(table, class_label="1", rows=slice(1, None))) == [2, 4]
    assert len(chosen(select_rows(table, class_label="1", random=2))) == 2


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"class_label": "3"}, "there are 1, 2"),
        ({"random": 0}, "between 1 and the 2"),
        ({"random": 3}, "between 1 and the 2"),
        ({"rows": slice(5, 9)}, "No row is left of the 2"),
    ],
)
def test_choice_of_nothing_is_refused(keywords: dict[str, Any], words: str) -> None:
    """The message says what there is."""
    table = table_of(2, class_label=np.array(["1", "2"]))
    with pytest.raises(UsageError, match=words):
        select_rows(table, **keywords)


def test_class_of_rows_without_classes_is_refused() -> None:
    """The metadata has none."""
    with pytest.raises(UsageError, match="no class"):
        select_rows(table_of(), class_label="1")


def test_choice_of_all_rows_is_the_table_itself() -> None:
    """Faults that are not of single rows stay, too."""
    table = replace(table_of(), problems=(Problem(message="everywhere"),))
    assert select_rows(table) is table
