"""What a conversion will do, and everything wrong found before an image is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cryolike.conversion import ConversionPlan, ConvertOptions, plan_conversion, survey
from cryolike.descriptor import ImageDescriptor
from cryolike.errors import InputError, MetadataError, MissingFileError, StackError, UsageError
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.pairs import read_pairs
from cryolike.io.star import read_star

if TYPE_CHECKING:
    from tests.conversion.conftest import SetBuilder


def described(n_pixels: int = 12, pixel_size_A: float = 2.0) -> ImageDescriptor:
    """Descriptor of a box and a pixel size."""
    return ImageDescriptor.from_individual_values(n_pixels, pixel_size_A)


def planned(path: Path, given: ImageDescriptor | None = None, /, **options: Any) -> ConversionPlan:
    """Plan the conversion of a STAR file, by default with 12 pixels of 2 Å."""
    return plan_conversion(read_star(path), given or described(), ConvertOptions(**options))


def texts(plan: ConversionPlan, level: str) -> list[str]:
    """Messages of the notices of one level."""
    return [notice.message for notice in plan.notices if notice.level == level]


# Cutting into stacks


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(10, [10, 5]), (15, [15]), (100, [15]), (5, [5, 5, 5])]
)
def test_indexed_input_is_one_sequence(
    build: SetBuilder, batch_size: int, sizes: list[int]
) -> None:
    """Stacks hold images of several files; only the last one is shorter."""
    plan = planned(build.relion((7, 2, 6)).path, batch_size=batch_size)
    assert [stack.stop - stack.start for stack in plan.stacks] == sizes
    assert [stack.index for stack in plan.stacks] == list(range(len(sizes)))
    assert not plan.stopped_early


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(10, [7, 2, 6]), (5, [5, 2, 2, 5, 1]), (1, [1] * 15)]
)
def test_paired_input_never_shares_a_stack(
    build: SetBuilder, batch_size: int, sizes: list[int]
) -> None:
    """Each pair begins a stack; a pair longer than a batch is split."""
    table = read_pairs(*build.pairs((7, 2, 6)))
    plan = plan_conversion(table, described(), ConvertOptions(batch_size=batch_size))
    assert [stack.stop - stack.start for stack in plan.stacks] == sizes


def test_pairs_that_share_a_stack_file_stay_apart(build: SetBuilder) -> None:
    """Two STAR files for one MRC stack are two inputs."""
    stars, stacks = build.pairs((3, 3))
    plan = plan_conversion(read_pairs(stars, [stacks[0]] * 2), described(), ConvertOptions())
    assert [(stack.start, stack.stop) for stack in plan.stacks] == [(0, 3), (3, 6)]


@pytest.mark.parametrize(("n_stacks_max", "n_images", "is_early"), [(1, 5, True), (3, 15, False)])
def test_number_of_stacks_can_be_limited(
    build: SetBuilder, n_stacks_max: int, n_images: int, is_early: bool
) -> None:
    """The plan says whether the limit leaves rows out."""
    plan = planned(build.relion((7, 2, 6)).path, batch_size=5, n_stacks_max=n_stacks_max)
    assert (plan.n_images, plan.stopped_early) == (n_images, is_early)
    assert ("stops early" in plan.describe()) == is_early


def test_plan_says_how_much_will_be_written(build: SetBuilder) -> None:
    """The estimate covers the polar images and is not far above them."""
    plan = planned(build.relion((7, 2, 6)).path)
    polar = 15 * 13 * 24 * 8
    assert polar <= plan.n_bytes <= 1.5 * polar
    assert "15 images in 1 stack" in plan.describe()


# Pixel size


@pytest.mark.parametrize(
    ("metadata_A", "descriptor_A", "given_A", "factor"),
    [
        (2.0, 2.0, None, 1),
        (2.0, 2.0019, None, 1),
        (2.0, 2.0, 2.0, 1),
        (2.0, 2.0, 2.0019, 1),
        (2.0, 4.0, None, 2),
        (2.0, 4.0, 2.0, 2),
    ],
)
def test_pixel_sizes_agree_within_a_thousandth(
    build: SetBuilder,
    metadata_A: float,
    descriptor_A: float,
    given_A: float | None,
    factor: int,
) -> None:
    """Smaller differences pass; the descriptor's pixel size is that after downsampling."""
    path = build.relion((2,), pixel_size_A=metadata_A).path
    planned(
        path,
        described(12 // factor, descriptor_A),
        pixel_size_A=given_A,
        downsample_factor=factor,
    )


@pytest.mark.parametrize(
    ("descriptor_A", "given_A", "factor", "words"),
    [
        (2.01, None, 1, ["2 Å", "2.01 Å", "rlnImagePixelSize"]),
        (2.0, None, 2, ["2 Å", "1 Å"]),
        (2.5, 2.5, 1, ["2 Å", "2.5 Å", "pixel size given"]),
        (3.0, 2.0, 1, ["2 Å", "3 Å", "descriptor"]),
        (2.0, 2.0, 2, ["4 Å", "2 Å", "descriptor"]),
    ],
)
def test_pixel_sizes_that_differ_are_an_error(
    build: SetBuilder, descriptor_A: float, given_A: float | None, factor: int, words: list[str]
) -> None:
    """Metadata, the size given and the descriptor must agree; the message has both values."""
    path = build.relion((2,)).path
    given = described(12 // factor, descriptor_A)
    with pytest.raises((MetadataError, UsageError)) as caught:
        planned(path, given, pixel_size_A=given_A, downsample_factor=factor)
    assert all(word in str(caught.value) for word in words)


def test_rows_of_several_pixel_sizes_name_the_wrong_ones(build: SetBuilder) -> None:
    """Of two optics groups only the one that differs is at fault."""
    build.relion((3,))
    path = build.star(
        ["1@Particles/stack_01.mrcs", "2@Particles/stack_01.mrcs", "3@Particles/stack_01.mrcs"],
        columns={"rlnOpticsGroup": [1, 2, 1]},
        optics={
            "rlnOpticsGroup": [1, 2],
            "rlnVoltage": [300, 300],
            "rlnSphericalAberration": [2.7, 2.7],
            "rlnAmplitudeContrast": [0.1, 0.1],
            "rlnImagePixelSize": [2.0, 2.2],
        },
    )
    with pytest.raises(MetadataError, match=r"2\.2 Å.*1 of 3 rows"):
        planned(path)
    plan = planned(path, on_bad_row="skip")
    assert [(row, reason) for _, row, _, reason in plan.rejects] == [(1, "pixel size 2.2 Å")]


@pytest.mark.parametrize("header_A", [3.0, 2.0])
def test_header_pixel_size_never_stops(build: SetBuilder, header_A: float) -> None:
    """An MRC header that differs gives a warning with both values."""
    star = build.star(["1@a.mrcs"])
    build.stack("a.mrcs", build.noise(1), pixel_size_A=header_A)
    warned = [text for text in texts(planned(star), "warning") if "header" in text]
    assert len(warned) == (header_A != 2.0)
    assert all("3 Å" in text and "2 Å" in text for text in warned)


@pytest.mark.parametrize("header_A", [0.0, 1.0])
def test_without_any_pixel_size_the_descriptors_counts(build: SetBuilder, header_A: float) -> None:
    """A warning says so; 1 Å in a header is what writers put that do not know."""
    star = build.star(["1@a.mrcs"], without=["rlnImagePixelSize"])
    build.stack("a.mrcs", build.noise(1), pixel_size_A=header_A)
    warned = texts(planned(star), "warning")
    assert [text for text in warned if "No file gives the pixel size" in text and "2 Å" in text]


def test_size_given_counts_where_metadata_has_none(build: SetBuilder) -> None:
    """No warning then, and it must agree with the descriptor."""
    star = build.star(["1@a.mrcs"], without=["rlnImagePixelSize"])
    build.stack("a.mrcs", build.noise(1))
    assert not [t for t in texts(planned(star, pixel_size_A=2.0), "warning") if "pixel" in t]
    with pytest.raises(UsageError, match=r"3 Å.*2 Å"):
        planned(star, pixel_size_A=3.0)


def test_paired_input_takes_the_headers_pixel_size(build: SetBuilder) -> None:
    """ImagePixelSize of a generic STAR file is ignored, and a differing header only warned of."""
    star = build.star(2, pixel_size_A=9.0)
    stack = build.stack("a.mrcs", build.noise(2), pixel_size_A=2.5)
    table = read_pairs([star], [stack])
    assert plan_conversion(table).descriptor.cartesian_grid.pixel_size_A == pytest.approx(2.5)
    warned = texts(plan_conversion(table, described()), "warning")
    assert [text for text in warned if "2.5 Å" in text]


def test_descriptor_can_come_from_the_set(build: SetBuilder) -> None:
    """Box and pixel size are those after downsampling."""
    path = build.relion((3,)).path
    plan = plan_conversion(read_star(path), None, ConvertOptions(downsample_factor=3))
    grid = plan.descriptor.cartesian_grid
    assert (grid.side_px, grid.pixel_size_A) == (4, 6.0)


def test_set_that_does_not_tell_needs_a_descriptor(build: SetBuilder) -> None:
    """Without any pixel size nothing is guessed."""
    star = build.star(["1@a.mrcs"], without=["rlnImagePixelSize"])
    build.stack("a.mrcs", build.noise(1))
    with pytest.raises(UsageError, match="pixel-size"):
        plan_conversion(read_star(star))


# Boxes


def test_box_that_is_not_the_descriptors_is_an_error(build: SetBuilder) -> None:
    """The message gives both boxes and the way out."""
    with pytest.raises(InputError, match=r"12×12 pixels.*descriptor says 10×10") as caught:
        planned(build.relion((2,)).path, described(10))
    assert "describe --n-pixels 12" in str(caught.value)


def test_stacks_of_another_box_are_named(build: SetBuilder) -> None:
    """Mixed boxes: those that do not fit are listed, and can be skipped."""
    build.stack("a.mrcs", build.noise(2))
    odd = build.stack("b.mrcs", build.noise(1, 8))
    star = build.star(["1@a.mrcs", "1@b.mrcs", "2@a.mrcs"])
    with pytest.raises(InputError, match=r"8×8 pixels.*1 of 3 rows") as caught:
        planned(star)
    assert str(odd) in str(caught.value)
    plan = planned(star, on_bad_row="skip")
    assert [reject[1:] for reject in plan.rejects] == [(1, "000001@b.mrcs", "box of 8 pixels")]
    assert plan.table.source_row.tolist() == [0, 2]


@pytest.mark.parametrize("factor", [5, 24])
def test_factor_must_divide_the_box(build: SetBuilder, factor: int) -> None:
    """The message lists factors that do."""
    with pytest.raises(UsageError, match=r"does not divide the box of 12.*1, 2, 3, 4, 6"):
        planned(build.relion((2,)).path, downsample_factor=factor)


def test_wrong_image_size_in_metadata_is_a_warning(build: SetBuilder) -> None:
    """The stack counts: deposited sets have rlnImageSize wrong."""
    path = build.relion((2,), optics={"rlnImageSize": [64]}).path
    assert [t for t in texts(planned(path), "warning") if "image size" in t and "2 of 2" in t]
    path = build.relion((2,), optics={"rlnImageSize": [12]}).path
    assert not [t for t in texts(planned(path), "warning") if "image size" in t]


def test_cube_is_noted(build: SetBuilder) -> None:
    """A stack with as many images as pixels along an edge may be a map."""
    assert [t for t in texts(planned(build.relion((12,)).path), "note") if "map" in t]
    assert not [t for t in texts(planned(build.relion((11,)).path), "note") if "map" in t]


# Rows


def test_repeated_image_is_kept_counted_and_noted(build: SetBuilder) -> None:
    """Three rows that repeat an image are three images."""
    build.stack("a.mrcs", build.noise(3))
    plan = planned(build.star(["1@a.mrcs", "2@a.mrcs", "1@a.mrcs", "1@a.mrcs", "2@a.mrcs"]))
    assert plan.n_images == 5
    assert [t for t in texts(plan, "note") if t.startswith("3 rows repeat an image")]


def test_zero_defocus_is_a_warning(build: SetBuilder) -> None:
    """It is allowed."""
    columns = {"rlnDefocusU": [0.0, 10_000.0], "rlnDefocusV": [0.0, 10_000.0]}
    plan = planned(build.relion((2,), columns=columns).path)
    assert plan.n_images == 2
    assert [t for t in texts(plan, "warning") if "defocus" in t.lower()]


def test_defocus_in_micrometres_is_an_error(build: SetBuilder) -> None:
    """All values between 0 and 50 Å cannot be meant."""
    columns = {"rlnDefocusU": [1.2, 1.5], "rlnDefocusV": [1.1, 1.4]}
    with pytest.raises(MetadataError, match="µm"):
        planned(build.relion((2,), columns=columns).path)


def test_particle_counts_where_both_tables_have_a_value(build: SetBuilder) -> None:
    """A note says that they differ."""
    plan = planned(build.relion((2,), columns={"rlnVoltage": [200, 200]}).path)
    assert plan.table.voltage_kV.tolist() == [200, 200]
    assert [t for t in texts(plan, "note") if "Voltage" in t]


@pytest.mark.parametrize("kind", ["star", "cryosparc"])
def test_image_past_the_end_is_named_as_its_program_counts(build: SetBuilder, kind: str) -> None:
    """RELION counts from 1, cryoSPARC from 0: each message counts likewise."""
    build.stack("a.mrcs", build.noise(2))
    if kind == "star":
        table = read_star(build.star(["2@a.mrcs", "3@a.mrcs"]))
        wanted = "row 1: image 3 of a.mrcs, which has 2 (counted from 1)"
    else:
        table = read_cryosparc(build.cryosparc(["a.mrcs", "a.mrcs"], [1, 2]))
        wanted = "row 1: image 2 of a.mrcs, which has 2 (counted from 0)"
    with pytest.raises(MetadataError) as caught:
        plan_conversion(table, described())
    assert wanted in str(caught.value)
    assert "1 of 2 rows" in str(caught.value)


def test_bare_name_is_the_only_image_of_its_stack(build: SetBuilder) -> None:
    """Without a number, a stack of one image is meant, and one of several is an error."""
    build.stack("one.mrcs", build.noise(1))
    build.stack("two.mrcs", build.noise(2))
    assert planned(build.star(["one.mrcs"])).table.image_index.tolist() == [0]
    with pytest.raises(MetadataError, match="without saying which one") as caught:
        planned(build.star(["one.mrcs", "two.mrcs"]))
    assert "row 1: two.mrcs, which has 2 images" in str(caught.value)


# Everything at once


def faulty_star(build: SetBuilder) -> Path:
    """Write 5 rows: good, missing stack, past the end, NaN defocus, truncated stack."""
    build.stack("a.mrcs", build.noise(3))
    cut = build.stack("cut.mrcs", build.noise(3))
    cut.write_bytes(cut.read_bytes()[:-500])
    return build.star(
        ["1@a.mrcs", "1@gone.mrcs", "9@a.mrcs", "2@a.mrcs", "1@cut.mrcs"],
        columns={"rlnDefocusU": ["10000", "10000", "10000", "nan", "10000"]},
    )


def test_everything_wrong_is_listed_at_once(build: SetBuilder) -> None:
    """Metadata, paths, headers and options are faulted in one error of their common class."""
    star = faulty_star(build)
    with pytest.raises(InputError) as caught:
        planned(star, described(12, 3.0))
    message = str(caught.value)
    for words in (
        "1 of 3 files not found (1 of 5 rows)",
        "past the end of their stack",
        "DefocusU",
        "cut.mrcs",
        "descriptor says 3 Å",
    ):
        assert words in message
    assert len(caught.value.problems) == 5


def test_bad_rows_can_be_skipped(build: SetBuilder) -> None:
    """Each skipped row is kept with its number, image name and reason."""
    plan = planned(faulty_star(build), on_bad_row="skip")
    assert plan.n_rows_in == 5
    assert plan.table.source_row.tolist() == [0]
    rejects = {row: (name, reason) for _, row, name, reason in plan.rejects}
    assert rejects[1] == ("000001@gone.mrcs", "file not found")
    assert rejects[2][1] == "image number past the end of its stack"
    assert rejects[3][0] == "000002@a.mrcs"
    assert "cut" in rejects[4][0]
    assert set(rejects) == {1, 2, 3, 4}


def test_row_with_several_faults_is_skipped_once(build: SetBuilder) -> None:
    """Its reasons are joined."""
    build.stack("a.mrcs", build.noise(1))
    star = build.star(["1@a.mrcs", "2@a.mrcs"], columns={"rlnDefocusU": ["10000", "nan"]})
    plan = planned(star, on_bad_row="skip")
    ((_, row, _, reason),) = plan.rejects
    assert row == 1
    assert "; " in reason


def test_skipping_every_row_is_an_error(build: SetBuilder) -> None:
    """A set of which nothing is left is no set."""
    with pytest.raises(MissingFileError, match="1 of 1 files not found"):
        planned(build.star(["1@gone.mrcs"]), on_bad_row="skip")


def test_faults_that_are_not_of_rows_cannot_be_skipped(build: SetBuilder) -> None:
    """Rows and images that differ in number stop a paired conversion in any case."""
    stack = build.stack("a.mrcs", build.noise(3))
    table = read_pairs([build.star(2)], [stack])
    with pytest.raises(MetadataError, match=r"2 rows.*3 images"):
        plan_conversion(table, described(), ConvertOptions(on_bad_row="skip"))


def test_chosen_rows_leave_the_faults_of_others_out(build: SetBuilder) -> None:
    """A plan for good rows only does not mind bad ones."""
    table = read_star(faulty_star(build))
    plan = plan_conversion(table.take(np.array([0])), described())
    assert plan.n_images == 1
    with pytest.raises(StackError):
        plan_conversion(table.take(np.array([0, 4])), described())


def test_survey_raises_nothing(build: SetBuilder) -> None:
    """What is wrong is in its problems, with headers where there are any."""
    surveyed = survey(read_star(faulty_star(build)))
    assert len(surveyed.problems) == 4
    assert [header is not None for header in surveyed.headers].count(True) == 1
    assert surveyed.box_of_row.tolist() == [12, 0, 12, 12, 0]


def test_planning_writes_nothing(build: SetBuilder, tmp_path: Path) -> None:
    """The folder of the set is as it was, and nothing appears beside it."""
    built = build.relion((2,))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    planned(built.path)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, ["batch_size is 0"]),
        ({"pixel_size_A": 0.0}, ["pixel_size is 0"]),
        ({"pixel_size_A": float("nan")}, ["pixel_size is nan"]),
        ({"downsample_factor": 0}, ["downsample_factor is 0"]),
        ({"batch_size": -1, "pixel_size_A": -2.0}, ["batch_size is -1", "pixel_size is -2"]),
    ],
)
def test_options_out_of_range_are_all_named(options: dict[str, Any], words: Sequence[str]) -> None:
    """One error lists each value that cannot be."""
    with pytest.raises(UsageError) as caught:
        ConvertOptions(**options)
    assert all(word in str(caught.value) for word in words)


def test_plan_lists_each_input_once(build: SetBuilder) -> None:
    """Metadata first, then every stack, however many names lead to it."""
    built = build.relion((2, 1))
    table = read_star(built.path)
    doubled = replace(
        table,
        image_files=(*table.image_files, "./" + table.image_files[0]),
        image_file_index=np.array([0, 2, 1]),
    )
    plan = plan_conversion(doubled, described())
    assert plan.input_paths[0] == str(built.path)
    assert sorted(Path(p).resolve() for p in set(plan.input_paths[1:])) == sorted(built.stacks)
