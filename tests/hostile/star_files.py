"""STAR files that are damaged, or something else."""

from __future__ import annotations

from tests.builders import SetBuilder
from tests.hostile.cases import (
    Rejected,
    Source,
    star_source,
)
from tests.hostile.star_sets import (
    FIRST,
    GROUP,
    LFS_POINTER,
    SECOND,
    WEB_PAGE,
    edited,
    with_optics,
    without,
    written,
)

from cryolike.errors import MissingFileError


def in_folder(build: SetBuilder) -> Source:
    """Make a folder of that name."""
    path = build.folder / "particles.star"
    path.mkdir()
    return star_source(path)


REJECTED = [
    # The file as a whole
    Rejected(
        id="file-missing",
        make=lambda build: star_source(build.folder / "particles.star"),
        error=MissingFileError,
        says=("particles.star", "there is no such file"),
        remedy="Check the path",
    ),
    Rejected(
        id="folder-for-file",
        make=in_folder,
        says=("particles.star", "this is a folder, not a STAR file"),
        remedy="Give the STAR file in it.",
    ),
    Rejected(
        id="file-empty",
        make=written(b""),
        says=("particles.star", "the file is empty"),
        remedy="Copy or write it again.",
    ),
    Rejected(
        id="file-of-blank-lines",
        make=written(b"\n\r\n  \n"),
        says=("particles.star", "the file is empty"),
        remedy="Copy or write it again.",
    ),
    Rejected(
        id="84-git-lfs-pointer",
        make=written(LFS_POINTER),
        says=("particles.star", "a Git LFS pointer"),
        remedy="git lfs pull",
    ),
    Rejected(
        id="84-web-page",
        make=written(WEB_PAGE),
        says=("particles.star", "a web page"),
        remedy="Download the file itself.",
    ),
    Rejected(
        id="compressed",
        make=written(b"\x1f\x8b\x08\0\0\0\0\0\0\xff"),
        says=("particles.star", "gzip-compressed"),
        remedy="gunzip",
    ),
    Rejected(
        id="cs-file-named-star",
        make=written(b"\x93NUMPY\x01\0"),
        says=("particles.star", "a NumPy file (a cryoSPARC .cs file?)"),
        remedy="Give a STAR file",
    ),
    Rejected(
        id="binary-in-the-middle",
        make=edited(("10010", "100\0\0")),
        says=("particles.star", "line 22 holds a byte 0x00"),
        remedy="copy it again",
    ),
    Rejected(
        id="utf-16",
        make=written("data_particles\n\nloop_\n_rlnImageName\n1@a.mrcs\n".encode("utf-16")),
        says=("particles.star", "binary"),
        remedy="plain text",
    ),
    Rejected(
        id="57-line-ends-of-old-macs",
        make=written(b"data_particles\r\rloop_\r_rlnImageName\r1@a.mrcs\r"),
        says=("particles.star", "no data_ block", r"'data_particles\r\rloop_\r"),
        remedy="begin with a line data_NAME",
    ),
    Rejected(
        id="table-of-commas",
        make=written(b"ImageName,DefocusU\n1@a.mrcs,12000\n"),
        says=("particles.star", "no data_ block", "'ImageName,DefocusU'"),
        remedy="begin with a line data_NAME",
    ),
    Rejected(
        id="10-micrographs",
        make=written(b"data_micrographs\nloop_\n_rlnMicrographName\n_rlnDefocusU\na.mrc 12000\n"),
        says=("particles.star", "this is a micrographs STAR", "_rlnMicrographName"),
        remedy="Give the particles.star",
    ),
    Rejected(
        id="61-cistem",
        make=written(b"data_\nloop_\n_cisTEMPositionInStack\n_cisTEMDefocus1\n1 12000\n"),
        says=("particles.star", "cisTEM STAR is not supported"),
        remedy="in RELION's format",
    ),
    Rejected(
        id="61-no-relion-labels",
        make=written(b"data_points\nloop_\n_x\n_y\n1 2\n"),
        says=("particles.star", "no RELION labels", "_x, _y"),
        remedy="as RELION writes it",
    ),
    Rejected(
        id="56-tomography",
        make=edited(("_rlnDefocusAngle", "_rlnTomoVisibleFrames")),
        says=("particles.star", "subtomogram", "rlnTomoVisibleFrames"),
        remedy="Export single-particle data.",
    ),
    Rejected(
        id="56-volumes",
        make=with_optics(ImageDimensionality=3),
        says=("particles.star", "rlnImageDimensionality is 3"),
        remedy="Export single-particle data.",
    ),
    Rejected(
        id="no-image-names",
        make=without("rlnImageName"),
        says=("particles.star", "rlnImageName", "_rlnDefocusU"),
        remedy="cryolike convert paired",
    ),
    Rejected(
        id="several-tables-of-particles",
        make=written(
            b"data_a\nloop_\n_rlnImageName\n1@a.mrcs\ndata_b\nloop_\n_rlnImageName\n1@b.mrcs\n"
        ),
        says=("particles.star", "data_a (line 1)", "data_b (line 5)"),
        remedy="Keep the right one",
    ),
    # Structure
    Rejected(
        id="60-empty-loop",
        make=lambda build: star_source(build.star([])),
        says=("particles.star", "0 particles"),
        remedy="Check that the job that wrote it selected any.",
    ),
    Rejected(
        id="58-short-row",
        make=edited((" 9520.0", "")),
        says=("particles.star", "1 of 5 rows", "line 23: 5 values, expected 6", FIRST),
        remedy="Correct or remove these lines",
    ),
    Rejected(
        id="58-long-row",
        make=edited((" 9520.0", " 9520.0 9520.0")),
        says=("particles.star", "1 of 5 rows", "line 23: 7 values, expected 6"),
        remedy="Correct or remove these lines",
    ),
    Rejected(
        id="58-stray-line",
        make=edited((f"000003@{FIRST}", f"9\n000003@{FIRST}")),
        says=("particles.star", "1 of 6 rows", "line 23: 1 value, expected 6: '9'"),
        remedy="Correct or remove these lines",
    ),
    Rejected(
        id="58-last-row-cut",
        make=edited((" 9540.0 12.0 2.0\n", " 95")),
        says=("particles.star", "1 of 5 rows", "line 25: 4 values, expected 6"),
        remedy="Correct or remove these lines",
    ),
    Rejected(
        id="58-name-with-spaces",
        make=edited((f"000003@{FIRST}", "000003@my stack.mrcs")),
        says=("particles.star", "line 23: 7 values, expected 6", "my stack.mrcs"),
        remedy="names with spaces need quotes",
    ),
    Rejected(
        id="58-conflict-marks",
        make=edited((f"000003@{FIRST}", f"<<<<<<< HEAD\n000003@{FIRST}")),
        says=("particles.star", "line 23: 2 values, expected 6: '<<<<<<< HEAD'"),
        remedy="Correct or remove these lines",
    ),
    Rejected(
        id="10-particles-twice",
        make=edited(("\ndata_optics", "\ndata_particles")),
        says=("particles.star", "data_particles occurs more than once", "line 2", "line 12"),
        remedy="Keep the right one",
        n_problems=1,
    ),
    Rejected(
        id="10-optics-twice",
        make=edited((GROUP, f"{GROUP}\ndata_optics\nloop_\n_rlnOpticsGroup\n1")),
        says=("particles.star", "data_optics occurs more than once", "line 2", "line 11"),
        remedy="remove the others",
    ),
    Rejected(
        id="59-label-twice",
        make=edited(("_rlnPhaseShift", "_rlnDefocusU")),
        says=("particles.star", "label twice", "DefocusU: lines 17, 20"),
        remedy="Remove one of the columns.",
    ),
    Rejected(
        id="59-label-twice-in-two-spellings",
        make=edited(("_rlnPhaseShift", "_DefocusU")),
        says=("particles.star", "label twice", "lines 17, 20"),
        remedy="Remove one of the columns.",
    ),
    Rejected(
        id="59-number-stuck-to-the-label",
        make=edited(("_rlnDefocusAngle #", "_rlnDefocusAngle")),
        says=("particles.star", "required fields are missing: rlnDefocusAngle", "rlnDefocusAngle5"),
        remedy="came after CTF estimation",
    ),
    Rejected(
        id="60-second-table-in-a-block",
        make=edited(("\ndata_particles\n", "")),
        says=("particles.star", "second table", "line 12"),
        remedy="a data_ line of its own",
        n_problems=2,
    ),
    Rejected(
        id="60-loop-line-missing",
        make=edited(
            ("data_particles\n\nloop_", "data_particles\n\n"),
        ),
        says=("particles.star", "labels without a value", "line 15"),
        remedy="loop_",
        n_problems=1,
    ),
    Rejected(
        id="60-quote-not-closed",
        make=edited((f"000003@{FIRST}", f"'000003@{FIRST}")),
        says=("particles.star", f"''000003@{FIRST}'", "row 2 (line 23)"),
        remedy="--on-bad-row skip",
    ),
    Rejected(
        id="11-optics-empty",
        make=edited((f"{GROUP}\n", "")),
        says=("particles.star", "data_optics (line 2) has no rows", "5 particles"),
        remedy="Correct the optics table.",
    ),
    Rejected(
        id="11-group-defined-twice",
        make=edited((GROUP, f"{GROUP}\n{GROUP}")),
        says=("particles.star", "optics group 1 is defined 2 times", "line 10", "line 11"),
        remedy="Correct the optics table.",
    ),
    Rejected(
        id="53-rows-without-a-group",
        make=edited((GROUP, f"{GROUP}\n2 200 2.7 0.1 2.0"), ("_rlnOpticsGroup #2", "_rlnGroup #2")),
        says=("particles.star", "data_particles (line 13) has no rlnOpticsGroup", "2 optics"),
        remedy="Correct the optics table.",
    ),
    Rejected(
        id="structure-all-at-once",
        make=edited(
            (GROUP, f"{GROUP}\n{GROUP}"),
            ("_rlnPhaseShift", "_rlnDefocusU"),
            (" 9520.0", ""),
            (f"000001@{SECOND}", f"9\n000001@{SECOND}"),
        ),
        says=("optics group 1 is defined 2 times", "label twice", "line 24: 5 values", "'9'"),
        remedy="Remove one of the columns.",
        n_problems=3,
    ),
]
