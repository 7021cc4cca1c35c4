""".cs files and result groups that are damaged, something else, or do not fit together."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
from tests.builders import SetBuilder
from tests.hostile.cases import (
    Make,
    Rejected,
    Source,
    cryosparc_source,
)
from tests.hostile.cryosparc_sets import (
    CTF,
    NUMBERS,
    UID,
    entry,
    fields,
    good,
    only,
    records,
    save,
    single,
    split,
    without,
)
from tests.hostile.payload import Payload
from tests.hostile.star_sets import LFS_POINTER

from cryolike.errors import InputError, MissingFileError


def written(content: bytes, name: str = "particles.cs") -> Make:
    """Make a file of these bytes."""

    def make(build: SetBuilder) -> Source:
        (build.folder / name).write_bytes(content)
        return cryosparc_source(build.folder / name)

    return make


def damaged(damage: Callable[[bytes], bytes]) -> Make:
    """Make the set of `good` with other bytes."""

    def make(build: SetBuilder) -> Source:
        path = good(build)
        path.write_bytes(damage(path.read_bytes()))
        return cryosparc_source(path)

    return make


def joined(change: Callable[[np.ndarray], np.ndarray]) -> Make:
    """Make the set of `split` with other rows in the passthrough file."""

    def make(build: SetBuilder) -> Source:
        path, passthrough = split(build)
        save(passthrough, change(records(passthrough)))
        return cryosparc_source(path, passthrough)

    return make


def repeated(rows: np.ndarray) -> np.ndarray:
    """Repeat the first row."""
    return np.concatenate([rows, rows[:1]])


def passthrough_missing(build: SetBuilder) -> Source:
    """Make the set of `split`, without the passthrough file that is named."""
    path, passthrough = split(build)
    passthrough.unlink()
    return cryosparc_source(path, passthrough)


def passthrough_of_another_job(build: SetBuilder) -> Source:
    """Make the set of `split` with a passthrough file of other particles beside it."""
    path, passthrough = split(build)
    rows = records(passthrough)
    rows["uid"] += np.uint64(1000)
    save(build.folder / "J9_passthrough_particles.cs", rows)
    passthrough.unlink()
    return cryosparc_source(path)


def pickled_column(build: SetBuilder) -> Source:
    """Make a set whose paths are Python objects that would create a file."""
    path = good(build)
    rows = records(path)
    types = {name: rows.dtype[name] for name in rows.dtype.names or ()}
    dtype = list((types | {"blob/path": "O"}).items())
    copy = np.zeros(len(rows), dtype=dtype)
    copy["blob/path"] = Payload(build.folder / "unpickled")
    return cryosparc_source(save(path, copy))


def bare_pickle(build: SetBuilder) -> Source:
    """Make a pickle that is named .cs."""
    path = build.folder / "particles.cs"
    path.write_bytes(pickle.dumps(Payload(build.folder / "unpickled")))
    return cryosparc_source(path)


def group(text: str) -> Make:
    """Make the set of `good` and a result group of this text."""

    def make(build: SetBuilder) -> Source:
        good(build)
        path = build.folder / "particles.csg"
        path.write_text(text)
        return cryosparc_source(path)

    return make


REJECTED = [
    # The file as a whole
    Rejected(
        id="file-missing",
        make=lambda build: cryosparc_source(build.folder / "particles.cs"),
        error=MissingFileError,
        says=("particles.cs", "there is no such file"),
        remedy="Check the path",
    ),
    Rejected(
        id="folder-for-file",
        make=lambda build: cryosparc_source(build.folder),
        says=("project", "this is a folder, not a .cs file"),
        remedy="cryolike convert job",
    ),
    Rejected(
        id="file-empty",
        make=written(b""),
        says=("particles.cs", "empty (0 bytes)"),
        remedy="Copy it again",
    ),
    Rejected(
        id="84-git-lfs-pointer",
        make=written(LFS_POINTER),
        says=("particles.cs", "a Git LFS pointer"),
        remedy="git lfs pull",
    ),
    Rejected(
        id="18-csdat",
        make=written(b"\x95CSDAT\1\0\0\0"),
        says=("particles.cs", "compressed CSDAT format"),
        remedy="Dataset.load",
    ),
    Rejected(
        id="20-csg-named-cs",
        make=written(b"created: 2021-01-01\nresults:\n  blob:\n    metafile: '>x.cs'\n"),
        says=("particles.cs", "a result group (YAML)"),
        remedy=".csg",
    ),
    Rejected(
        id="star-file-named-cs",
        make=written(b"\ndata_particles\n\nloop_\n_rlnImageName\n1@a.mrcs\n"),
        says=("particles.cs", "this is a STAR file"),
        remedy="cryolike convert star",
    ),
    Rejected(
        id="binary-of-another-kind",
        make=written(b"\xde\xad\xbe\xef\0\0\0\0"),
        says=("particles.cs", "binary data", r"b'\xde\xad"),
        remedy="Give a particles .cs file as cryoSPARC wrote it.",
    ),
    Rejected(
        id="18-objects-are-never-unpickled",
        make=pickled_column,
        says=("particles.cs", "pickled Python objects, which are never loaded"),
        remedy="Export the result group",
    ),
    Rejected(
        id="18-pickles-are-never-unpickled",
        make=bare_pickle,
        says=("particles.cs", "not a .cs file"),
        remedy="Give a particles .cs file as cryoSPARC wrote it.",
    ),
    Rejected(
        id="42-cut-in-the-rows",
        make=damaged(lambda content: content[:-20]),
        says=("particles.cs", "cut short after"),
        remedy="Wait until the job that writes it has finished",
    ),
    Rejected(
        id="42-cut-in-the-header",
        make=damaged(lambda content: content[:100]),
        says=("particles.cs", "cut short after 100 bytes"),
        remedy="copy it again",
    ),
    Rejected(
        id="42-header-overwritten",
        make=damaged(lambda content: content[:20] + b"\xff" * 60 + content[80:]),
        says=("particles.cs", "header of this NumPy file is damaged"),
        remedy="Copy the file again",
    ),
    Rejected(
        id="42-header-that-nests-without-end",
        make=written(b"\x93NUMPY\x02\0" + (200_000).to_bytes(4, "little") + b"-" * 200_000),
        says=("particles.cs", "header of this NumPy file is damaged"),
        remedy="Copy the file again",
    ),
    Rejected(
        id="numpy-of-a-later-version",
        make=damaged(lambda content: content[:6] + b"\x09" + content[7:]),
        says=("particles.cs", "of an unknown version"),
        remedy="export the result group",
    ),
    Rejected(
        id="60-zero-rows",
        make=lambda build: cryosparc_source(build.cryosparc([], [])),
        says=("particles.cs", "0 particles"),
        remedy="Check that the job that wrote it selected any.",
    ),
    Rejected(
        id="array-of-numbers",
        make=lambda build: cryosparc_source(save(build.folder / "x.cs", np.zeros((3, 2)))),
        says=("x.cs", "array of float64 of shape (3, 2)"),
        remedy="Give a particles .cs file",
    ),
    # Fields
    Rejected(
        id="21-no-images",
        make=without("blob/path", "blob/idx"),
        says=("particles.cs", "blob/path, blob/idx", "fields present: uid, blob/psize_A"),
        remedy="--passthrough",
    ),
    Rejected(
        id="21-no-ctf",
        make=without(*(f"ctf/{name}" for name in CTF)),
        says=("particles.cs", "ctf/df1_A, ctf/df2_A, ctf/df_angle_rad, ctf/cs_mm, ctf/accel_kv"),
        remedy="--passthrough",
    ),
    Rejected(
        id="1-one-ctf-field-missing",
        make=without("ctf/cs_mm"),
        says=("particles.cs", "required fields are missing: ctf/cs_mm", "ctf/accel_kv"),
        remedy="--passthrough",
    ),
    Rejected(
        id="columns-of-wrong-types",
        make=fields(blob__idx=single(NUMBERS), ctf__df1_A=np.array([b"x"] * 5)),
        says=("blob/idx is of type float32, expected integers", "ctf/df1_A is of type |S1"),
        remedy="as cryoSPARC wrote it",
        n_problems=2,
    ),
    Rejected(
        id="paths-as-numbers",
        make=fields(blob__path=np.arange(5)),
        says=("particles.cs", "blob/path is of type int64, expected strings"),
        remedy="as cryoSPARC wrote it",
    ),
    # Joining
    Rejected(
        id="22-uids-missing-in-the-passthrough",
        make=joined(lambda rows: rows[2:]),
        says=(
            "passthrough.cs: 2 of 5 uids of particles.cs are not in passthrough.cs",
            f"uid {UID + 3}",
            f"uid {UID + 4}",
        ),
        remedy="of the same job",
    ),
    Rejected(
        id="23-uid-twice-in-the-passthrough",
        make=joined(repeated),
        says=("passthrough.cs: 1 uid found more than once", f"uid {UID + 4}"),
        remedy="Give one file that holds all fields",
    ),
    Rejected(
        id="22-no-uids-in-the-passthrough",
        make=joined(lambda rows: only(rows, [f"ctf/{name}" for name in CTF])),
        says=("passthrough.cs: the field uid is missing, so rows cannot be joined",),
        remedy="Give one file that holds all fields",
    ),
    Rejected(
        id="22-passthrough-missing",
        make=passthrough_missing,
        error=MissingFileError,
        says=("passthrough.cs", "there is no such file"),
        remedy="Check the path",
    ),
    Rejected(
        id="24-passthrough-of-another-job",
        make=passthrough_of_another_job,
        says=("particles.cs", "ctf/df1_A", "5 of 5 uids of particles.cs are not in J9_"),
        remedy="--passthrough",
    ),
    # Result groups
    Rejected(
        id="20-group-that-is-no-yaml",
        make=group("results: [blob: {"),
        says=("particles.csg", "not a YAML file"),
        remedy="give the .cs files themselves",
    ),
    Rejected(
        id="20-group-that-nests-without-end",
        make=group("[" * 400),
        says=("particles.csg", "not a YAML file"),
        remedy="give the .cs files themselves",
    ),
    Rejected(
        id="20-group-that-would-make-objects",
        make=group("results: !!python/object/apply:os.mkdir [unpickled]\n"),
        says=("particles.csg", "not a YAML file"),
        remedy="give the .cs files themselves",
    ),
    Rejected(
        id="20-group-without-results",
        make=group("created: 2021-01-01\n"),
        says=("particles.csg", "lists no results"),
        remedy="give the .cs files themselves",
    ),
    Rejected(
        id="20-group-without-metafile",
        make=group("results:\n  blob:\n    num_items: 5\n"),
        says=("particles.csg", "result 'blob' names no metafile"),
        remedy="--passthrough",
    ),
    Rejected(
        id="20-group-of-missing-files",
        make=group(f"results:\n{entry('blob', 'x.cs')}{entry('ctf', 'y_passthrough.cs')}"),
        error=MissingFileError,
        says=("x.cs: there is no such file", "y_passthrough.cs: there is no such file"),
        remedy="Check the path",
        n_problems=2,
    ),
    Rejected(
        id="24-group-of-other-counts",
        make=group(f"results:\n{entry('blob', 'particles.cs', 7)}{entry('ctf', 'gone.cs')}"),
        error=InputError,
        says=("result 'blob' should have 7 items, but particles.cs has 5 rows", "gone.cs"),
        remedy="Export the group again",
        n_problems=2,
    ),
    Rejected(
        id="84-group-that-is-a-git-lfs-pointer",
        make=written(LFS_POINTER, "particles.csg"),
        says=("particles.csg", "a Git LFS pointer"),
        remedy="git lfs pull",
    ),
    Rejected(
        id="group-that-is-binary",
        make=written(b"\0\1\2\3" * 100, "particles.csg"),
        says=("particles.csg", "not a YAML file"),
        remedy="give the .cs files themselves",
    ),
]
