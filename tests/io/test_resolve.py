"""Finding the stacks that metadata names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cryolike.errors import Problem
from cryolike.io.resolve import ResolvedFiles, resolve_image_files
from cryolike.particles import ParticleTable


def table_of(
    names: Sequence[str], metadata: Path, rows: Sequence[int] | None = None
) -> ParticleTable:
    """Rows that name these stacks, by default one row each."""
    file_index = np.arange(len(names)) if rows is None else np.array(rows, dtype=np.int64)
    n = len(file_index)
    ones = np.ones(n)
    return ParticleTable(
        kind="star",
        metadata_files=(str(metadata),),
        metadata_index=np.zeros(n, dtype=np.int64),
        source_row=np.arange(n),
        image_files=tuple(names),
        image_file_index=file_index,
        image_index=np.zeros(n, dtype=np.int64),
        defocus_u_A=ones.copy(),
        defocus_v_A=ones.copy(),
        defocus_angle_rad=ones.copy(),
        phase_shift_rad=ones.copy(),
        spherical_aberration_mm=ones.copy(),
        voltage_kV=ones.copy(),
        amplitude_contrast=ones.copy(),
        ctf_bfactor_A2=ones.copy(),
        ctf_scale=ones.copy(),
        pixel_size_A=ones.copy(),
    )


def put(path: Path) -> Path:
    """Make an empty file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def found(result: ResolvedFiles) -> list[Path | None]:
    """Paths with links kept and '..' resolved by name."""
    return [None if path is None else path.absolute() for path in result.paths]


def texts(result: ResolvedFiles) -> list[str]:
    """Messages of all notices."""
    return [notice.message for notice in result.notices]


def only_problem(result: ResolvedFiles) -> Problem:
    """Take the one problem there is."""
    (problem,) = result.problems
    return problem


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project folder, with an empty working directory elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


# A folder is given


def test_only_file_names_count_in_a_folder(project: Path, tmp_path: Path) -> None:
    """Paths in the metadata do not matter, absolute or not."""
    stacks = [put(tmp_path / "data" / name) for name in ("a.mrcs", "b.mrcs", "c.mrc")]
    names = ["Extract/job1/a.mrcs", "/old/disk/b.mrcs", ">J3/c.mrc"]
    result = resolve_image_files(table_of(names, project / "p.star"), tmp_path / "data")
    assert found(result) == stacks
    assert result.problems == ()
    assert texts(result) == []


@pytest.mark.parametrize("place", ["working directory", "beside the metadata", "as named"])
def test_nowhere_else_is_looked(project: Path, tmp_path: Path, place: str) -> None:
    """A file of that name in any other place is not the one."""
    (tmp_path / "data").mkdir()
    name = str(tmp_path / "absolute/a.mrcs") if place == "as named" else "a.mrcs"
    if place == "working directory":
        put(Path.cwd() / "a.mrcs")
    elif place == "beside the metadata":
        put(project / "a.mrcs")
    else:
        put(Path(name))
    result = resolve_image_files(table_of([name], project / "p.star"), tmp_path / "data")
    assert found(result) == [None]
    assert "1 of 1 files not found (1 of 1 rows)" in str(only_problem(result))


def test_folder_may_be_relative(project: Path) -> None:
    """It is relative to the working directory."""
    stack = put(Path.cwd() / "data/a.mrcs")
    result = resolve_image_files(table_of(["x/a.mrcs"], project / "p.star"), "data")
    assert found(result) == [stack]


def test_folder_that_does_not_exist_is_one_problem(project: Path, tmp_path: Path) -> None:
    """Not one for each file."""
    result = resolve_image_files(table_of(["a.mrcs", "b.mrcs"], project / "p.star"), tmp_path / "x")
    problem = only_problem(result)
    assert problem.kind == "missing"
    assert problem.rows is None
    assert str(tmp_path / "x") in str(problem)


def test_clashing_names_use_whole_paths(project: Path, tmp_path: Path) -> None:
    """Where all of them exist below the folder; a note says so."""
    names = ["J12/extract/x.mrc", "J30/extract/x.mrc"]
    stacks = [put(tmp_path / "data" / name) for name in names]
    put(tmp_path / "data/x.mrc")
    result = resolve_image_files(table_of(names, project / "p.star"), tmp_path / "data")
    assert found(result) == stacks
    assert result.problems == ()
    assert any("share a name" in text for text in texts(result))


@pytest.mark.parametrize("n_below", [0, 1])
def test_clashing_names_are_an_error_naming_the_two(
    project: Path, tmp_path: Path, n_below: int
) -> None:
    """One stack of that name would give one particle another's pixels."""
    names = ["J12/extract/x.mrc", "J30/extract/x.mrc"]
    put(tmp_path / "data/x.mrc")
    for name in names[:n_below]:
        put(tmp_path / "data" / name)
    result = resolve_image_files(table_of(names, project / "p.star"), tmp_path / "data")
    message = str(only_problem(result))
    assert f"{names[0]} and {names[1]}" in message
    assert only_problem(result).rows is None


def test_same_path_twice_is_no_clash(project: Path, tmp_path: Path) -> None:
    """With and without '>' it is one name."""
    stack = put(tmp_path / "data/x.mrc")
    names = [">J1/x.mrc", "J1/x.mrc"]
    result = resolve_image_files(table_of(names, project / "p.cs"), tmp_path / "data")
    assert found(result) == [stack, stack]


# No folder is given


@pytest.mark.parametrize(
    "base", ["elsewhere", "project/Refine3D/job012", "project/Refine3D", "project"]
)
def test_names_are_found_where_projects_keep_them(project: Path, tmp_path: Path, base: str) -> None:
    """Relative to the working directory, the metadata's folder and all above it."""
    stack = put(tmp_path / base / "Extract/job1/a.mrcs")
    metadata = project / "Refine3D/job012/run_data.star"
    result = resolve_image_files(table_of(["Extract/job1/a.mrcs"], metadata))
    assert found(result) == [stack]
    assert result.problems == ()
    # The base is said unless it is the one that needs no words
    assert any(str(tmp_path / base) in text for text in texts(result)) == (base != "elsewhere")


def test_nearest_place_wins(project: Path, tmp_path: Path) -> None:
    """Working directory, then the metadata's folder, then those above, in this order."""
    metadata = project / "Refine3D/run.star"
    for base in ("project", "project/Refine3D", "elsewhere"):
        stack = put(tmp_path / base / "a.mrcs")
        assert found(resolve_image_files(table_of(["a.mrcs"], metadata))) == [stack]


def test_several_bases_are_a_warning(project: Path) -> None:
    """Half a set found in another place may be another set."""
    stacks = [put(Path.cwd() / "a.mrcs"), put(project / "b.mrcs")]
    result = resolve_image_files(table_of(["a.mrcs", "b.mrcs"], project / "p.star"))
    assert found(result) == stacks
    (notice,) = result.notices
    assert notice.level == "warning"
    assert f"{Path.cwd()} (1)" in notice.message
    assert f"{project} (1)" in notice.message


def test_absolute_names_are_taken_as_they_are(project: Path, tmp_path: Path) -> None:
    """Without a word about bases."""
    stack = put(tmp_path / "disk/a.mrcs")
    result = resolve_image_files(table_of([str(stack)], project / "p.star"))
    assert found(result) == [stack]
    assert texts(result) == []


def test_mark_of_exported_files_means_beside_the_metadata(project: Path) -> None:
    """With '>' the metadata's folder comes first, the working directory last."""
    here, beside = put(Path.cwd() / "J1/a.mrc"), put(project / "J1/a.mrc")
    result = resolve_image_files(table_of([">J1/a.mrc", "J1/a.mrc"], project / "p.cs"))
    assert found(result) == [beside, here]
    beside.unlink()
    assert found(resolve_image_files(table_of([">J1/a.mrc"], project / "p.cs"))) == [here]


@pytest.mark.parametrize(("named", "there"), [("a.mrcs", "a.mrc"), ("a.mrc", "a.mrcs")])
@pytest.mark.parametrize("in_folder", [True, False])
def test_twins_are_taken_for_each_other(
    project: Path, named: str, there: str, in_folder: bool
) -> None:
    """.mrc for .mrcs and the reverse, with a note."""
    stack = put(project / there)
    result = resolve_image_files(
        table_of([named], project / "p.star"), project if in_folder else ""
    )
    assert found(result) == [stack]
    assert any("instead of .mrcs" in text for text in texts(result))


def test_exact_name_anywhere_beats_a_twin(project: Path) -> None:
    """A micrograph a.mrc in the working directory is not the stack a.mrcs of the project."""
    put(Path.cwd() / "a.mrc")
    stack = put(project / "a.mrcs")
    assert found(resolve_image_files(table_of(["a.mrcs"], project / "p.star"))) == [stack]


def test_other_suffixes_have_no_twin(project: Path) -> None:
    """Only these two are used for one another."""
    put(project / "a.mrc")
    for name in ("a.tif", "a", "a.mrcs.gz", "a.MRCS"):
        assert found(resolve_image_files(table_of([name], project / "p.star"))) == [None]


def test_links_are_followed_and_kept(project: Path, tmp_path: Path) -> None:
    """The path is that of the link."""
    target = put(tmp_path / "disk/real.mrcs")
    link = project / "a.mrcs"
    link.symlink_to(target)
    assert found(resolve_image_files(table_of(["a.mrcs"], project / "p.star"))) == [link]


def test_dangling_link_is_named_with_its_target(project: Path, tmp_path: Path) -> None:
    """Import jobs only link: the message says to what."""
    link, target = project / "J5/imported/x.mrc", tmp_path / "gone/x.mrc"
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    result = resolve_image_files(table_of(["J5/imported/x.mrc"], project / "p.cs"))
    message = str(only_problem(result))
    assert f"{link} is a symbolic link to {target}, which does not exist" in message


@pytest.mark.parametrize("in_folder", [True, False])
def test_missing_files_are_counted_exactly(project: Path, in_folder: bool) -> None:
    """Files and rows; the first ten are named."""
    names = [f"stack_{i:03d}.mrcs" for i in range(340)]
    for name in names[12:]:
        put(project / name)
    rows = [i % 340 for i in range(4000)]
    n_missing_rows = sum(row < 12 for row in rows)
    result = resolve_image_files(
        table_of(names, project / "p.star", rows), project if in_folder else ""
    )
    problem = only_problem(result)
    message = str(problem)
    assert f"12 of 340 files not found ({n_missing_rows} of 4,000 rows)" in message
    assert "stack_000.mrcs" in message
    assert "stack_009.mrcs" in message
    assert "stack_010.mrcs" not in message
    assert "and 2 more" in message
    assert problem.kind == "missing"
    assert problem.reason == "file not found"
    assert problem.rows is not None
    assert problem.rows.tolist() == [i for i, row in enumerate(rows) if row < 12]


def test_hint_where_the_files_lie_beside_the_metadata(project: Path) -> None:
    """A folder that holds a file of that name is suggested."""
    put(project / "a.mrcs")
    result = resolve_image_files(table_of(["old/path/a.mrcs"], project / "p.star"))
    assert f"{project} holds a file named a.mrcs" in str(only_problem(result))


@pytest.mark.parametrize("name", ["", ">", "a\0b.mrcs", "x" * 300 + ".mrcs", ".", "..", "/"])
@pytest.mark.parametrize("in_folder", [True, False])
def test_impossible_names_are_not_found(project: Path, name: str, in_folder: bool) -> None:
    """No name raises anything, and a folder is no stack."""
    table = table_of([name], project / "p.star")
    result = resolve_image_files(table, project if in_folder else "")
    assert found(result) == [None]
    assert "1 of 1 files not found" in str(only_problem(result))


@pytest.mark.parametrize("name", ["with space.mrcs", "ä%#.mrcs", "a@b.mrcs"])
def test_unusual_names_are_found(project: Path, name: str) -> None:
    """Spaces, signs and letters of any kind."""
    stack = put(project / "Extract" / name)
    result = resolve_image_files(table_of([f"Extract/{name}"], project / "p.star"))
    assert found(result) == [stack]


@pytest.mark.parametrize("given", [True, False])
def test_a_twin_is_never_anothers_stack(tmp_path: Path, given: bool) -> None:
    """Where a.mrcs is named itself, a missing a.mrc does not borrow its images."""
    put(tmp_path / "a.mrcs")
    table = table_of(["a.mrc", "a.mrcs"], tmp_path / "x.star")
    result = resolve_image_files(table, tmp_path if given else "")
    assert result.paths[0] is None
    assert found(result)[1] == tmp_path / "a.mrcs"
    assert [problem.kind for problem in result.problems] == ["missing"]


def test_spellings_of_one_name_are_one_stack(tmp_path: Path) -> None:
    """'./P/a.mrcs' and 'P/a.mrcs' do not clash in a folder given."""
    put(tmp_path / "a.mrcs")
    result = resolve_image_files(table_of(["./P/a.mrcs", "P/a.mrcs"], tmp_path / "x"), tmp_path)
    assert found(result) == [tmp_path / "a.mrcs"] * 2
    assert not result.problems
