"""``cryolike convert`` and its four kinds of input."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile
import torch

from cryolike.descriptor import ImageDescriptor
from cryolike.store import StackSet, open_stacks

Run = Callable[..., Any]


def files_in(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def source_rows(folder: Path) -> list[int]:
    """Rows of the source that a converted set holds, in its order."""
    rows: list[int] = open_stacks(folder).table["source_row"].tolist()
    return rows


def assert_rows_are_those_of_the_file(stacks: StackSet, star_file: Path) -> None:
    """Check the CTF and the image of each converted row against the row it claims to be."""
    blocks = starfile.read(star_file, always_dict=True)
    rows = blocks["particles"].merge(blocks["optics"], on="rlnOpticsGroup", how="left")
    rows = rows.iloc[stacks.table["source_row"]]
    np.testing.assert_allclose(stacks.table["defocus_u_A"], rows["rlnDefocusU"])
    np.testing.assert_allclose(stacks.table["voltage_kV"], rows["rlnVoltage"])
    names = [
        f"{index + 1:06d}@Particles/{Path(file).name}"
        for file, index in zip(stacks.table["image_file"], stacks.table["image_index"], strict=True)
    ]
    assert names == rows["rlnImageName"].tolist()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Folder to write, which does not exist yet."""
    return tmp_path / "converted"


@pytest.fixture
def convert_star(run: Run, star_file: Path, out: Path) -> Run:
    """Convert the STAR file without plots, with further options."""
    return lambda *options: run(
        "convert", "star", star_file, "-o", out, "--no-plots", "--quiet", *options
    )


def test_star_set_is_converted(convert_star: Run, star_file: Path, out: Path) -> None:
    """All 30 rows come out in their order, and the plan and the result are told."""
    outcome = convert_star()
    assert outcome.code == 0
    assert "30 chosen, 0 skipped" in outcome.out
    assert "30 of 30 images in" in outcome.out
    stacks = open_stacks(out)
    assert stacks.table["source_row"].tolist() == list(range(30))
    assert_rows_are_those_of_the_file(stacks, star_file)
    assert not (out / "plots").exists()


def test_plots_are_drawn_unless_refused(run: Run, star_file: Path, out: Path) -> None:
    """Without --no-plots each stack has its three pictures."""
    assert run("convert", "star", star_file, "-o", out, "--batch-size", "15").code == 0
    assert len(list((out / "plots").glob("*.png"))) == 6


def test_json_holds_the_result(convert_star: Run, out: Path) -> None:
    """--json prints one value that counts rows, images and stacks."""
    report = json.loads(convert_star("--json", "--batch-size", "8").out)
    assert report["folder"] == str(out)
    assert (report["n_rows_in"], report["n_images_out"], report["n_stacks"]) == (30, 30, 4)
    assert (report["n_skipped"], report["n_stacks_kept"]) == (0, 0)
    assert report["stopped_early"] is False
    assert report["warnings"] == []


def test_dry_run_writes_nothing(convert_star: Run, out: Path) -> None:
    """--dry-run tells what would be done, as text or JSON, and leaves no folder."""
    outcome = convert_star("--dry-run", "--batch-size", "7")
    assert outcome.code == 0
    assert "30 images in 5 stacks" in outcome.out
    assert "nothing was written" in outcome.out
    plan = json.loads(convert_star("--dry-run", "--json", "--batch-size", "7").out)
    assert (plan["n_rows_in"], plan["n_images"], plan["n_stacks"]) == (30, 30, 5)
    assert plan["n_bytes"] >= 30 * 17 * 32 * 8
    assert not out.exists()


def test_dry_run_finds_what_is_wrong(convert_star: Run, star_file: Path) -> None:
    """A dry run of a set without one of its stacks ends as the run itself would."""
    (star_file.parent / "Particles" / "stack_001.mrcs").unlink()
    outcome = convert_star("--dry-run")
    assert outcome.code == 1
    assert "stack_001.mrcs" in outcome.err


def test_chosen_rows_keep_their_number_in_the_file(
    convert_star: Run, star_file: Path, out: Path
) -> None:
    """--rows 10:20 converts rows 10 to 19 and says so of each image."""
    assert convert_star("--rows", "10:20").code == 0
    assert source_rows(out) == list(range(10, 20))
    assert_rows_are_those_of_the_file(open_stacks(out), star_file)


def test_random_rows_are_the_same_for_the_same_seed(
    run: Run, star_file: Path, tmp_path: Path
) -> None:
    """--random draws as many rows as asked for, in file order; the seed decides which."""
    drawn = []
    for i, seed in enumerate((1, 1, 2)):
        folder = tmp_path / f"drawn{i}"
        options = ("--random", "6", "--seed", seed, "--no-plots", "--quiet")
        assert run("convert", "star", star_file, "-o", folder, *options).code == 0
        assert_rows_are_those_of_the_file(open_stacks(folder), star_file)
        drawn.append(source_rows(folder))
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(rows == sorted(set(rows)) and len(rows) == 6 for rows in drawn)


def test_class_chooses_its_rows(convert_star: Run, star_file: Path, out: Path) -> None:
    """--class 1 converts the rows of that class; it combines with --rows."""
    assert convert_star("--class", "1", "--rows", "0:12").code == 0
    assert source_rows(out) == [1, 4, 7, 10]
    assert_rows_are_those_of_the_file(open_stacks(out), star_file)


def test_stacks_stops_early_and_says_so(convert_star: Run, out: Path) -> None:
    """--stacks 2 makes two stacks and tells that rows are left."""
    outcome = convert_star("--stacks", "2", "--batch-size", "8", "--json")
    report = json.loads(outcome.out)
    assert report["stopped_early"] is True
    assert source_rows(out) == list(range(16))


def test_bad_rows_stop_the_run_or_are_listed(
    run: Run, changed: Callable[..., Path], out: Path
) -> None:
    """Bad rows: by default nothing is written; with skip, rejects.csv names each and why."""
    path = changed(
        {(4, "rlnDefocusU"): "nan", (7, "rlnImageName"): "000099@Particles/stack_001.mrcs"}
    )
    command = ("convert", "star", path, "-o", out, "--no-plots", "--quiet", "--json")
    refused = run(*command)
    assert refused.code == 1
    assert refused.out == ""
    assert "2 problems" in refused.err
    assert "row 4" in refused.err
    assert "row 7" in refused.err
    assert not out.exists()

    skipped = run(*command, "--on-bad-row", "skip")
    assert skipped.code == 0
    report = json.loads(skipped.out)
    assert (report["n_rows_in"], report["n_images_out"], report["n_skipped"]) == (30, 28, 2)
    assert source_rows(out) == [row for row in range(30) if row not in (4, 7)]
    with (out / "rejects.csv").open(encoding="utf-8", newline="") as stream:
        rejects = list(csv.DictReader(stream))
    assert [reject["source_row"] for reject in rejects] == ["4", "7"]
    assert "rlnDefocusU" in rejects[0]["reason"]
    assert rejects[1]["image_name"] == "000099@Particles/stack_001.mrcs"
    assert "past the end" in rejects[1]["reason"]


def test_bad_images_stop_the_run_or_are_listed(
    run: Run, star_file: Path, convert_star: Run, out: Path
) -> None:
    """A blank image: an error that names its row and the option; with skip it is left out."""
    stack = star_file.parent / "Particles" / "stack_002.mrcs"
    with mrcfile.open(stack, mode="r+") as file:
        file.data[3] = 1.0
    names = starfile.read(star_file, always_dict=True)["particles"]["rlnImageName"].tolist()
    row = names.index("000004@Particles/stack_002.mrcs")
    refused = convert_star()
    assert refused.code == 1
    assert f"row {row}: 000004@Particles/stack_002.mrcs" in refused.err
    assert "--on-bad-image skip" in refused.err
    skipped = convert_star("--overwrite", "--on-bad-image", "skip")
    assert skipped.code == 0
    assert source_rows(out) == [i for i in range(30) if i != row]


def test_results_are_not_replaced_unasked(convert_star: Run, out: Path) -> None:
    """A second run stops and changes no byte, and names both ways on; --overwrite replaces."""
    assert convert_star().code == 0
    before = files_in(out)
    refused = convert_star("--rows", "0:5")
    assert refused.code == 1
    assert refused.out == ""
    assert "--resume" in refused.err
    assert "--overwrite" in refused.err
    assert files_in(out) == before
    assert convert_star("--rows", "0:5", "--overwrite").code == 0
    assert source_rows(out) == list(range(5))


def test_resume_of_a_whole_set_changes_nothing(convert_star: Run, out: Path) -> None:
    """--resume on a finished set keeps every stack, byte for byte."""
    assert convert_star("--batch-size", "10").code == 0
    before = files_in(out)
    report = json.loads(convert_star("--batch-size", "10", "--resume", "--json").out)
    assert report["n_stacks_kept"] == report["n_stacks"] == 3
    assert report["n_images_out"] == 30
    assert files_in(out) == before


def test_resume_on_a_fresh_folder_starts(convert_star: Run, out: Path) -> None:
    """--resume where nothing is yet simply converts."""
    assert convert_star("--resume").code == 0
    assert source_rows(out) == list(range(30))


def test_resume_with_other_options_is_refused(convert_star: Run, out: Path) -> None:
    """Stacks of two settings are never mixed: the difference is named."""
    assert convert_star("--batch-size", "10").code == 0
    before = files_in(out)
    refused = convert_star("--batch-size", "7", "--resume")
    assert refused.code == 1
    assert "batch_size" in refused.err
    assert "10" in refused.err
    assert files_in(out) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--resume", "--overwrite"), "contradict"),
        (("--rows", "9:3"), "START:STOP"),
        (("--rows", "5"), "START:STOP"),
        (("--rows", "a:b"), "START:STOP"),
        (("--rows", "100:200"), "No row is left"),
        (("--random", "31"), "between 1 and the 30 rows"),
        (("--random", "0"), "between 1 and the 30 rows"),
        (("--class", "7"), "there are 0, 1, 2"),
        (("--pixel-size", "-1"), "pixel_size"),
        (("--pixel-size", "nan"), "pixel_size"),
        (("--downsample", "0"), "downsample"),
        (("--downsample", "3"), "1, 2, 4, 8"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_cannot_be_are_bad_usage(
    convert_star: Run, out: Path, options: tuple[str, ...], words: str
) -> None:
    """Values out of range and contradictions end with 2, name what is allowed, write nothing."""
    outcome = convert_star(*options)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert words in outcome.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--contrast", "dark", "recorded, keep, invert"),
        ("--on-bad-row", "ignore", "error, skip"),
        ("--on-bad-image", "ignore", "error, skip"),
        ("--downsample-type", "median", "mean, max, fourier"),
    ],
)
def test_unknown_choices_are_bad_usage(
    convert_star: Run, out: Path, option: str, value: str, allowed: str
) -> None:
    """A word that an option does not know ends with 2 and the words it knows."""
    outcome = convert_star(option, value)
    assert outcome.code == 2
    assert f"Invalid value for '{option}': '{value}' is not one of {allowed}" in outcome.err
    assert not out.exists()


def test_pixel_size_that_differs_is_refused(convert_star: Run, out: Path) -> None:
    """A pixel size other than the metadata's is an error that gives both."""
    outcome = convert_star("--pixel-size", "5")
    assert outcome.code == 1
    assert "6 Å" in outcome.err
    assert "5 Å" in outcome.err
    assert not out.exists()


def test_descriptor_decides_the_grid(
    convert_star: Run, run: Run, out: Path, tmp_path: Path
) -> None:
    """--params takes a file that describe wrote; images have its grid and precision."""
    params = tmp_path / "params.npz"
    made = run("describe", "-n", "16", "-s", "6", "-o", params, "--precision", "double")
    assert made.code == 0
    assert convert_star("--params", params).code == 0
    assert next(iter(open_stacks(out))).dtype == torch.complex128


def test_descriptor_that_does_not_fit_is_refused(convert_star: Run, tmp_path: Path) -> None:
    """A descriptor of another box is an error that gives both boxes."""
    params = tmp_path / "params.npz"
    ImageDescriptor.from_individual_values(20, 6.0).save(params)
    outcome = convert_star("--params", params)
    assert outcome.code == 1
    assert "16×16" in outcome.err
    assert "20×20" in outcome.err


def test_downsampling_changes_box_and_pixel_size(convert_star: Run, out: Path) -> None:
    """--downsample 2 makes images of half the box and twice the pixel size."""
    assert convert_star("--downsample", "2").code == 0
    grid = open_stacks(out).descriptor.cartesian_grid
    assert (grid.side_px, grid.pixel_size_A) == (8, 12.0)


def test_inverted_contrast_changes_the_sign(
    run: Run, star_file: Path, convert_star: Run, out: Path, tmp_path: Path
) -> None:
    """--contrast invert gives the negative of the same images."""
    assert convert_star().code == 0
    inverted = tmp_path / "inverted"
    options = ("--contrast", "invert", "--no-plots", "--quiet")
    assert run("convert", "star", star_file, "-o", inverted, *options).code == 0
    ours, theirs = (torch.cat(list(open_stacks(folder))) for folder in (out, inverted))
    torch.testing.assert_close(theirs, -ours)


def test_warnings_are_told_once_on_standard_error(
    run: Run, pair: tuple[Path, Path], out: Path
) -> None:
    """A default that is applied appears on standard error, and in the JSON."""
    star, stack = pair
    text = star.read_text(encoding="utf-8").replace("rlnAmplitudeContrast", "rlnOther")
    star.write_text(text, encoding="utf-8")
    outcome = run(
        *("convert", "paired", "--star", star, "--mrc", stack, "-o", out, "--json", "--no-plots")
    )
    assert outcome.code == 0
    warning = "rlnAmplitudeContrast is missing: 0.1 used for all 30 rows."
    assert outcome.err.count(f"warning: {warning}") == 1
    assert warning in json.loads(outcome.out)["warnings"]


def test_cryosparc_set_gives_the_same_images(
    run: Run, project: Path, convert_star: Run, out: Path, tmp_path: Path
) -> None:
    """A .cs file with its passthrough, and a restack job, give the images of the STAR file."""
    assert convert_star().code == 0
    of_file, of_job = tmp_path / "of_file", tmp_path / "of_job"
    passthrough = ("--passthrough", project / "J5/passthrough.cs")
    command = ("convert", "cryosparc", project / "J5/particles.cs", *passthrough)
    assert run(*command, "-o", of_file, "--no-plots", "--quiet").code == 0
    assert (
        run("convert", "job", project, "--job", "4", "-o", of_job, "--no-plots", "--quiet").code
        == 0
    )
    expected = open_stacks(out)
    for folder in (of_file, of_job):
        stacks = open_stacks(folder)
        assert torch.equal(torch.cat(list(stacks)), torch.cat(list(expected)))
        for name in ("defocus_u_A", "defocus_angle_rad", "voltage_kV", "spherical_aberration_mm"):
            np.testing.assert_allclose(stacks.table[name], expected.table[name], rtol=1e-6)
        assert stacks.table["source_row"].tolist() == list(range(30))


def test_job_that_is_not_there_is_bad_data(run: Run, project: Path, out: Path) -> None:
    """A job number without a folder ends with 1 and names the folder."""
    outcome = run("convert", "job", project, "--job", "9", "-o", out)
    assert outcome.code == 1
    assert "J9" in outcome.err


def test_paired_set_gives_the_same_images(
    run: Run, pair: tuple[Path, Path], convert_star: Run, out: Path, tmp_path: Path
) -> None:
    """A generic STAR with its stack gives the images of the indexed one; pairs share no stack."""
    assert convert_star().code == 0
    star, stack = pair
    paired = tmp_path / "paired"
    twice = ("--star", star, "--mrc", stack, "--star", star, "--mrc", stack)
    options = ("--batch-size", "20", "--no-plots", "--quiet")
    assert run("convert", "paired", *twice, "-o", paired, *options).code == 0
    expected = torch.cat(list(open_stacks(out)))
    stacks = open_stacks(paired)
    assert [len(images) for images in stacks] == [20, 10, 20, 10]
    torch.testing.assert_close(torch.cat(list(stacks)), torch.cat([expected, expected]))


def test_paired_angles_may_be_in_radians(run: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    """With --radians the angles of the STAR file are taken as they are."""
    star, stack = pair
    table = starfile.read(star, always_dict=True)["particles"]
    in_radians = tmp_path / "radians.star"
    angle_rad = np.deg2rad(table["rlnDefocusAngle"])
    starfile.write({"particles": table.assign(rlnDefocusAngle=angle_rad)}, in_radians)
    angles = []
    for path, options in ((star, ()), (in_radians, ("--radians",))):
        folder = tmp_path / f"of_{path.stem}"
        command = ("convert", "paired", "--star", path, "--mrc", stack, *options)
        assert run(*command, "-o", folder, "--no-plots", "--quiet").code == 0
        angles.append(open_stacks(folder).table["defocus_angle_rad"])
    np.testing.assert_allclose(angles[1], angles[0], atol=1e-6)


def test_pairs_must_be_pairs(run: Run, pair: tuple[Path, Path], out: Path) -> None:
    """More STAR files than stacks is bad usage; more rows than images is bad data."""
    star, stack = pair
    uneven = run("convert", "paired", "--star", star, "--star", star, "--mrc", stack, "-o", out)
    assert uneven.code == 2
    assert "2 STAR files for 1 MRC" in uneven.err
    short = stack.with_name("short.mrcs")
    with mrcfile.new(short) as file:
        file.set_data(mrcfile.read(stack)[:29])
        file.set_image_stack()
    differ = run("convert", "paired", "--star", star, "--mrc", short, "-o", out)
    assert differ.code == 1
    assert "30 rows" in differ.err
    assert "29 images" in differ.err


@pytest.mark.parametrize(
    ("command", "words"),
    [("cryosparc", "a STAR file, not a .cs file"), ("star", "a cryoSPARC .cs file")],
)
def test_file_of_the_other_program_is_recognised(
    run: Run, star_file: Path, project: Path, out: Path, command: str, words: str
) -> None:
    """A STAR file given as .cs, or the reverse, is told what it is."""
    path = star_file if command == "cryosparc" else project / "J5/particles.cs"
    outcome = run("convert", command, path, "-o", out)
    assert outcome.code == 1
    assert str(path) in outcome.err
    assert words in outcome.err


def test_interruption_is_told_with_the_way_on(
    run: Run, star_file: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C during a conversion ends with 130 and names --resume."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cryolike.cli.convert.convert", interrupted)
    outcome = run("convert", "star", star_file, "-o", out, "--quiet")
    assert outcome.code == 130
    assert "--resume" in outcome.err
