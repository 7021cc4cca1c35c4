"""cryoSPARC metadata: ``.cs`` files, ``.csg`` result groups and job directories.

A ``.cs`` file is a NumPy file with one structured row for each particle. One job often spreads the
fields of its particles over several of them; rows that belong together share a `uid`, and only
that joins them here: their order and number differ between files.

::

    files -> _Records (used columns of one file) -> _join by uid -> _build -> ParticleTable
"""

from __future__ import annotations

import os
import re
import tokenize
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from cryolike.errors import (
    CryoLikeError,
    LazyPlaces,
    MetadataError,
    MissingFileError,
    Notice,
    Problem,
    raise_problems,
)
from cryolike.io.columns import REQUIRED, Column, build_table, row_problem
from cryolike.io.mrc import read_stack_header
from cryolike.particles import ParticleTable

__all__ = ["read_cryosparc", "read_job"]

StrPath = str | os.PathLike[str]

_PATH, _INDEX = "blob/path", "blob/idx"
_FIELDS = {
    "defocus_u_A": "ctf/df1_A",
    "defocus_v_A": "ctf/df2_A",
    "defocus_angle_rad": "ctf/df_angle_rad",
    "spherical_aberration_mm": "ctf/cs_mm",
    "voltage_kV": "ctf/accel_kv",
    "phase_shift_rad": "ctf/phase_shift_rad",
    "amplitude_contrast": "ctf/amp_contrast",
    "pixel_size_A": "blob/psize_A",
    "contrast_sign": "blob/sign",
}
_AMPLITUDE_CONTRAST = ("ctf/amp_contrast", "ctf/ac", "ctf/amp_constrast")
"""The name in use, that of very old files, and a misspelling found in documentation."""

_REQUIRED_CTF = tuple(_FIELDS[name] for name in REQUIRED)
_REQUIRED_IMAGE = (_PATH, _INDEX)
_CLASSES = ("alignments3D/class", "alignments2D/class")
_OPTICS_GROUP = "ctf/exp_group_id"
_BOX = "blob/shape"
_IGNORED = {
    "ctf/shift_A": "image shift by aberration",
    "ctf/tilt_A": "beam tilt",
    "ctf/trefoil_A": "trefoil",
    "ctf/tetra_A": "tetrafoil",
}
_ANISOMAG, _BFACTOR, _SCALE = "ctf/anisomag", "ctf/bfactor", "ctf/scale"
_USED = frozenset(
    {
        "uid",
        *_REQUIRED_IMAGE,
        *_FIELDS.values(),
        *_AMPLITUDE_CONTRAST,
        *_CLASSES,
        _OPTICS_GROUP,
        _BOX,
        *_IGNORED,
        _ANISOMAG,
        _BFACTOR,
        _SCALE,
    }
)
_INTEGERS = frozenset({"uid", _INDEX})
_NUMBERS = frozenset({*_FIELDS.values(), *_AMPLITUDE_CONTRAST, *_CLASSES, _OPTICS_GROUP})

_GROUPS = frozenset(field.split("/")[0] for field in _USED) - {"uid"}
"""Result groups of a .csg that hold something used here."""

_MAX_HEADER_BYTES = 10_000_000
"""Files of jobs with a hundred classes have headers above NumPy's own limit."""

_ROWS_AT_ONCE = 65_536

_ITERATION = re.compile(r"(cryosparc_.*?J\d+)_(\d+)(_particles\.cs)")
_STACK_NAMES = {
    "restack": re.compile(r"batch_(\d+)_restacked\.mrcs?"),
    "downsample": re.compile(r"batch_(\d+)_downsample\.mrcs?"),
}


def read_cryosparc(path: StrPath, *, passthrough: Sequence[StrPath] = ()) -> ParticleTable:
    """Read particles and where their images are from a .cs file or a .csg result group.

    Fields that the file lacks come from `passthrough`, joined by uid; where none is given, a
    ``*passthrough*.cs`` file in the same folder is used if exactly one has what is missing.

    Parameters
    ----------
    path
        .cs file, or .csg file that lists several of them.
    passthrough
        Further .cs files. Where a field is in several, the earlier file counts.

    Returns
    -------
    ParticleTable
        In the row order of `path` (of a .csg: of its file that is no passthrough file). Its
        `metadata_files` begin with the file whose rows `source_row` counts; all others that were
        read follow.

    Raises
    ------
    MissingFileError
        Where a file does not exist.
    MetadataError
        Where a file is no .cs file, files cannot be joined, or no field says where images are.
    """
    path = Path(path)
    records = _load_group(path) if path.suffix.lower() == ".csg" else _load(path)
    required = (*_REQUIRED_IMAGE, *_REQUIRED_CTF)
    rejected: list[str] = []
    for other in passthrough:
        records = _join(records, _load(Path(other)))
    if not passthrough and (missing := _missing(records, required)):
        beside = sorted(path.parent.glob("*passthrough*.cs"))
        fits, rejected = _search(records, beside, missing)
        if fits:
            records = _join_found(records, fits, missing, level="warning")
    if _missing(records, _REQUIRED_IMAGE):
        raise _no_image_fields(records, _missing(records, required), rejected)

    name_of_row, names = _image_names(records.columns[_PATH])
    index = records.columns[_INDEX].astype(np.int64)
    empty = np.array([not name.lstrip(">") for name in names])
    problems = [
        *_rows(records, empty[name_of_row], f"{_PATH} is empty"),
        *_rows(records, index < 0, f"{_INDEX} is negative"),
    ]
    return _build(
        records,
        kind="cryosparc",
        rejected=rejected,
        problems=problems,
        reader_arguments={
            "path": str(path.absolute()),
            "passthrough": [str(Path(other).absolute()) for other in passthrough],
        },
        image_files=names,
        image_file_index=name_of_row,
        image_index=index,
        box_px=_box(records),
    )


def read_job(folder_project: StrPath, job_number: int) -> ParticleTable:
    """Read a restack or downsample job whose rows describe its stacks in sequence.

    Parameters
    ----------
    folder_project
        Folder of the cryoSPARC project, that holds ``J1``, ``J2``, ….
    job_number
        Which job: 4 for ``J4``.

    Returns
    -------
    ParticleTable
        Rows of ``J{n}/J{n}_passthrough_particles.cs``, applied in order to the images of
        ``J{n}/restack/batch_*_restacked.mrc`` or, where that folder does not exist, of
        ``J{n}/downsample/batch_*_downsample.mrc``. What the rows say about image files is not
        used. CTF fields, pixel size and sign that they lack come from the job's other .cs files.

    Raises
    ------
    MissingFileError
        Where the job, its passthrough file or its stacks do not exist.
    MetadataError
        Where rows and images differ in number, stacks are missing between others, or the fields
        cannot be found.
    StackError
        Where a stack's header cannot be read.
    """
    folder = Path(folder_project) / f"J{job_number}"
    if not folder.is_dir():
        problem = Problem(
            message="there is no such job folder",
            remedy="Give the folder of the project, which holds the job's, and the job's number.",
            file=str(folder),
            kind="missing",
        )
        raise MissingFileError(problem)
    file = _passthrough_file(folder)
    records = _load(file)
    others = sorted(f for f in folder.glob("*.cs") if f != file)
    rejected: list[str] = []
    if missing := _missing(records, _REQUIRED_CTF):
        fits, rejected = _search(records, others, missing)
        if fits:
            records = _join_found(records, fits, missing, level="note")
    records = _with_image_scale(records, others)
    stacks, notices = _job_stacks(folder)
    n_images = _count_images(stacks)
    if sum(n_images) != records.n_rows:
        raise _count_mismatch(records, stacks, n_images)
    counts = np.array(n_images, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    return _build(
        replace(records, notices=(*records.notices, *notices)),
        kind="job",
        rejected=rejected,
        reader_arguments={
            "folder_project": str(Path(folder_project).absolute()),
            "job_number": job_number,
        },
        image_files=tuple(map(str, stacks)),
        image_file_index=np.repeat(np.arange(len(stacks), dtype=np.int64), counts),
        image_index=np.arange(records.n_rows, dtype=np.int64) - np.repeat(starts, counts),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Records:
    """The used columns of one .cs file, or of several that were joined.

    Parameters
    ----------
    path
        The file whose row order counts.
    further_files
        Other files that were read.
    fields
        All fields of all of them.
    columns
        The used ones, each (n_rows,) or (n_rows, k).
    n_rows
        Number of particles.
    notices
        What was noticed while joining.
    """

    path: str
    further_files: tuple[str, ...] = ()
    fields: tuple[str, ...]
    columns: Mapping[str, np.ndarray]
    n_rows: int
    notices: tuple[Notice, ...] = ()

    @property
    def name(self) -> str:
        """File name, for messages that name two files."""
        return Path(self.path).name


def _missing(records: _Records, fields: Iterable[str]) -> list[str]:
    return [field for field in fields if field not in records.columns]


# Loading


def _fault(path: Path, message: str, remedy: str) -> MetadataError:
    return MetadataError(Problem(message=message, remedy=remedy, file=str(path)))


def _load(path: Path, groups: Collection[str] | None = None) -> _Records:
    """Copy the used columns of a .cs file (only those of `groups`, where given)."""
    mapped = _map(path)
    if len(mapped) == 0:
        raise _fault(
            path, "the file holds 0 particles", "Check that the job that wrote it selected any."
        )
    fields = tuple(
        field
        for field in mapped.dtype.names or ()
        if groups is None or field == "uid" or field.split("/")[0] in groups
    )
    used = [field for field in fields if field in _USED]
    columns = {
        field: np.empty((len(mapped), *mapped.dtype[field].shape), mapped.dtype[field].base)
        for field in used
    }
    # Rows can be 1 kB long and the file larger than memory: pass over it only once.
    for start in range(0, len(mapped), _ROWS_AT_ONCE):
        block = mapped[start : start + _ROWS_AT_ONCE]
        for field, column in columns.items():
            column[start : start + _ROWS_AT_ONCE] = block[field]
    _check_types(path, columns)
    return _Records(path=str(path), fields=fields, columns=columns, n_rows=len(mapped))


def _map(path: Path) -> np.ndarray:
    """Memory-map a .cs file, (n_rows,) structured."""
    _check_magic(path)
    try:
        with warnings.catch_warnings():
            # Headers that Python 2 wrote (cryoSPARC 2) are read, with a warning that helps nobody.
            warnings.simplefilter("ignore", UserWarning)
            mapped = np.load(
                path, mmap_mode="r", allow_pickle=False, max_header_size=_MAX_HEADER_BYTES
            )
    except (ValueError, TypeError, OverflowError, SyntaxError, tokenize.TokenError) as error:
        # NumPy's own text would advise to allow pickles.
        raise _unreadable(path, str(error)) from None
    if mapped.dtype.names is None or mapped.ndim != 1:
        raise _fault(
            path,
            f"this is an array of {mapped.dtype} of shape {mapped.shape}, not a table of particles",
            "Give a particles .cs file as cryoSPARC wrote it.",
        )
    return np.asarray(mapped)


def _unreadable(path: Path, reason: str) -> MetadataError:
    if "Python objects" in reason:
        return _fault(
            path,
            "the file holds pickled Python objects, which are never loaded: they could run any "
            "program",
            "Export the result group in cryoSPARC, or save plain columns (numbers and fixed-length "
            "strings) instead.",
        )
    if "EOF" in reason or "mmap length" in reason:
        return _fault(
            path,
            f"the file is cut short after {path.stat().st_size:,} bytes",
            "Wait until the job that writes it has finished, or copy it again.",
        )
    return _fault(
        path,
        "the header of this NumPy file is damaged or of an unknown version",
        "Copy the file again, or export the result group in cryoSPARC.",
    )


def _check_magic(path: Path) -> None:
    """Say what a file is that does not begin as a NumPy file does."""
    if path.is_dir():
        raise _fault(
            path,
            "this is a folder, not a .cs file",
            "Give a file; for a whole job use `cryolike convert job PROJECT --job N`.",
        )
    head = _head(path)
    if head.startswith(b"\x93NUMPY"):
        return
    if not head:
        raise _fault(path, "the file is empty (0 bytes)", "Copy it again or run the job again.")
    if head.startswith(b"\x95CSDAT"):
        raise _fault(
            path,
            "the file is in cryoSPARC's compressed CSDAT format",
            "Save it again with cryosparc-tools (Dataset.load(…).save(…)), or export the result "
            "group in cryoSPARC.",
        )
    raise _fault(path, *_what_text_is_it(head))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(1024)
    except FileNotFoundError:
        problem = Problem(
            message="there is no such file",
            remedy="Check the path; it is relative to the working directory.",
            file=str(path),
            kind="missing",
        )
        raise MissingFileError(problem) from None
    except OSError as error:
        raise _fault(path, f"cannot be read: {error.strerror}", "Check its permissions.") from error


def _what_text_is_it(head: bytes) -> tuple[str, str]:
    """Message and remedy for a file that is not NumPy's."""
    text = head.decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    if text.startswith("version https://git-lfs"):
        return (
            "this is a Git LFS pointer, not the file itself",
            "Fetch the file with `git lfs pull`.",
        )
    if any(line.startswith(("results:", "group:")) for line in lines):
        return (
            "this is a result group (YAML), not a table of particles",
            "Give it with its ending .csg, or give the .cs files it lists.",
        )
    if any(line.startswith(("data_", "loop_")) for line in lines):
        return "this is a STAR file, not a .cs file", "Use `cryolike convert star`."
    kind = "binary data" if "\0" in text or "\ufffd" in text else "text"
    return (
        f"this is {kind}, not a .cs file: it begins with {head[:12]!r}",
        "Give a particles .cs file as cryoSPARC wrote it.",
    )


def _check_types(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Refuse columns whose type cannot hold what their name says."""
    problems = []
    for field, column in columns.items():
        if field in _INTEGERS:
            right, wanted = column.dtype.kind in "iu", "integers"
        elif field in _NUMBERS:
            right, wanted = column.dtype.kind in "iuf", "numbers"
        elif field == _PATH:
            right, wanted = column.dtype.kind in "SU", "strings"
        else:
            continue
        if not right or column.ndim != 1:
            problems.append(
                Problem(
                    message=f"{field} is of type {column.dtype}{list(column.shape[1:]) or ''}, "
                    f"expected {wanted}, one a row",
                    remedy="Give the file as cryoSPARC wrote it.",
                    file=str(path),
                )
            )
    raise_problems(problems)


# Result groups


def _load_group(path: Path) -> _Records:
    """Load and join the files that a .csg lists."""
    groups_of: dict[Path, list[str]] = {}
    n_items: list[tuple[str, Path, Any]] = []
    for group, entry in _parse_group(path).items():
        metafile = entry.get("metafile") if isinstance(entry, dict) else None
        if not isinstance(metafile, str) or not metafile.lstrip(">"):
            raise _fault(
                path,
                f"result {group!r} names no metafile",
                "Give the .cs files themselves: one, and the others with --passthrough.",
            )
        file = path.parent / metafile.lstrip(">")
        groups_of.setdefault(file, []).append(group)
        n_items.append((group, file, entry.get("num_items")))
    main = next((f for f in groups_of if "passthrough" not in f.name), next(iter(groups_of)))
    files = [main, *(f for f, gs in groups_of.items() if f != main and _GROUPS & set(gs))]

    loaded: dict[Path, _Records] = {}
    problems: list[Problem] = []
    for file in files:
        try:
            loaded[file] = _load(file, groups_of[file])
        except CryoLikeError as error:
            problems += error.problems
    for group, file, wanted in n_items:
        if file in loaded and wanted is not None and wanted != loaded[file].n_rows:
            problems.append(
                Problem(
                    message=f"result {group!r} should have {wanted} items, but {file.name} has "
                    f"{loaded[file].n_rows:,} rows",
                    remedy="Export the group again: the files are not of one state of the job.",
                    file=str(path),
                )
            )
    raise_problems(problems)
    records = loaded[main]
    for file in files[1:]:
        records = _join(records, loaded[file])
    return replace(records, further_files=(*records.further_files, str(path)))


def _parse_group(path: Path) -> dict[Any, Any]:
    """Parse the `results` of a .csg file."""
    remedy = "Export the group again, or give the .cs files themselves."
    if _head(path).startswith((b"\x93NUMPY", b"\x95CSDAT")):
        raise _fault(path, "this is a .cs file named .csg", "Give it with its ending .cs.")
    try:
        document = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _fault(path, f"this is not a YAML file: {reason}", remedy) from error
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, dict) or not results:
        raise _fault(path, "the result group lists no results", remedy)
    return results


# Joining by uid


def _uid(records: _Records) -> np.ndarray:
    """Distinct uids, uint64 (a float holds only 53 bits of them)."""
    path = Path(records.path)
    if "uid" not in records.columns:
        raise _fault(path, "the field uid is missing, so rows cannot be joined", _REMEDY_JOIN)
    uid = records.columns["uid"].astype(np.uint64)
    values, counts = np.unique(uid, return_counts=True)
    repeated = values[counts > 1]
    if repeated.size:
        problem = Problem(
            message=f"{repeated.size:,} uids occur more than once, so rows cannot be joined",
            remedy=_REMEDY_JOIN,
            file=records.path,
            places=LazyPlaces(repeated.size, lambda i: f"uid {repeated[i]}"),
        )
        raise MetadataError(problem)
    return uid


_REMEDY_JOIN = "Give one file that holds all fields, e.g. an exported result group."


def _positions(wanted: np.ndarray, uid: np.ndarray) -> np.ndarray:
    """Where in `uid` each of `wanted` is; −1 where it is not."""
    order = np.argsort(uid)
    at = np.searchsorted(uid, wanted, sorter=order)
    rows = order[np.minimum(at, len(uid) - 1)]
    return np.where(uid[rows] == wanted, rows, -1)


def _join(main: _Records, other: _Records) -> _Records:
    """Add the fields of `other` to the rows of `main`."""
    uid = _uid(main)
    rows = _positions(uid, _uid(other))
    absent = uid[rows < 0]
    if absent.size:
        problem = Problem(
            message=f"{absent.size:,} of {uid.size:,} uids of {main.name} are not in "
            f"{other.name}: files from different jobs?",
            remedy="Give the passthrough file of the same job.",
            file=other.path,
            places=LazyPlaces(absent.size, lambda i: f"uid {absent[i]}"),
        )
        raise MetadataError(problem)
    joined = {field: column[rows] for field, column in other.columns.items()}
    notices = tuple(
        Notice(
            f"{field} differs between {main.name} and {other.name} in {n:,} of {uid.size:,} rows: "
            f"{main.name} counts."
        )
        for field in joined
        if field in main.columns and (n := _n_different(main.columns[field], joined[field]))
    )
    return replace(
        main,
        further_files=(*main.further_files, other.path),
        fields=tuple(dict.fromkeys((*main.fields, *other.fields))),
        columns={**joined, **main.columns},
        notices=(*main.notices, *notices),
    )


def _n_different(a: np.ndarray, b: np.ndarray) -> int:
    """Count rows whose values differ; NaN equals NaN."""
    text = [column.dtype.kind in "SU" for column in (a, b)]
    if a.shape != b.shape or text[0] != text[1]:
        return len(a)
    different = a != b
    if not any(text):
        different &= ~(np.isnan(a) & np.isnan(b))
    return int(different.reshape(len(a), -1).any(axis=1).sum())


def _search(
    main: _Records, files: Iterable[Path], missing: Sequence[str]
) -> tuple[list[Path], list[str]]:
    """Find files that hold all missing fields for all rows; say why others do not."""
    fits: list[Path] = []
    rejected: list[str] = []
    for file in files:
        if str(file) in (main.path, *main.further_files):
            continue
        try:
            names = _map(file).dtype.names or ()
            lacking = [field for field in missing if field not in names]
            if lacking:
                rejected.append(f"{file.name} lacks {', '.join(lacking)}")
            else:
                _join(main, _load(file, {"uid"}))
                fits.append(file)
        except CryoLikeError as error:
            rejected += [f"{Path(p.file).name}: {p.message}" for p in error.problems]
    return fits, rejected


def _last(files: Sequence[Path]) -> Path | None:
    """Choose the only file, or the last of several iterations of one job; None if neither."""
    if len(files) == 1:
        return files[0]
    found = [(match, file) for file in files if (match := _ITERATION.fullmatch(file.name))]
    if len(found) < len(files) or len({match.group(1) for match, _ in found}) != 1:
        return None
    return max(found, key=lambda pair: int(pair[0].group(2)))[1]


def _join_found(
    main: _Records,
    fits: Sequence[Path],
    missing: Sequence[str],
    *,
    level: Literal["warning", "note"],
) -> _Records:
    """Join the file that a search found."""
    chosen = _last(fits)
    if chosen is None:
        problem = Problem(
            message=f"{', '.join(missing)} missing, and {len(fits)} files beside it have them",
            remedy="Leave only the right one in the folder, or name it with --passthrough where "
            "the command takes that.",
            file=main.path,
            places=[file.name for file in fits],
        )
        raise MetadataError(problem)
    which = f", the last of {len(fits)} iterations" if len(fits) > 1 else ""
    notice = Notice(
        f"{', '.join(missing)} missing in {main.name}: taken from {chosen.name}{which}, joined by "
        "uid.",
        level,
    )
    joined = _join(main, _load(chosen))
    return replace(joined, notices=(*joined.notices, notice))


# From columns to the table


def _build(
    records: _Records,
    *,
    kind: Literal["cryosparc", "job"],
    rejected: Sequence[str],
    problems: Iterable[Problem] = (),
    **image_columns: Any,
) -> ParticleTable:
    """Make the table from joined columns and what is known of the images."""
    has_pixel_size = _FIELDS["pixel_size_A"] in records.columns
    table = build_table(
        kind=kind,
        metadata_file=records.path,
        n_rows=records.n_rows,
        columns=_quantities(records),
        place=_place(records),
        names=_FIELDS,
        fields_present=_abridged(records.fields),
        missing_remedy=_remedy_missing(kind, rejected),
        problems=problems,
        notices=[*records.notices, *_notices(records)],
        pixel_size_source=_FIELDS["pixel_size_A"] if has_pixel_size else "",
        uid=_column_as(records, "uid", np.uint64),
        class_label=_labels(records, _CLASSES),
        optics_group=_labels(records, (_OPTICS_GROUP,)),
        **image_columns,
    )
    return replace(table, metadata_files=(*table.metadata_files, *records.further_files))


def _quantities(records: _Records) -> dict[str, Column]:
    """Columns by the table's names; absent ones are left out."""
    fields = dict(_FIELDS)
    found = [field for field in _AMPLITUDE_CONTRAST if field in records.columns]
    if found:
        fields["amplitude_contrast"] = found[0]
    return {
        name: Column(
            label=field,
            values=records.columns[field].astype(np.float64),
            text=_text_of(records.columns[field]),
        )
        for name, field in fields.items()
        if field in records.columns
    }


def _text_of(column: np.ndarray) -> Callable[[int], str]:
    return lambda row: str(column[row])


def _place(records: _Records) -> Callable[[int], str]:
    """Say where a row is: its 0-based number, and its uid."""
    uid = records.columns.get("uid")
    return lambda row: f"row {row}" if uid is None else f"row {row} (uid {uid[row]})"


def _rows(records: _Records, bad: np.ndarray, message: str) -> list[Problem]:
    return row_problem(
        bad,
        message,
        "Correct the file, or leave these rows out with --on-bad-row skip.",
        file=records.path,
        place=_place(records),
    )


def _column_as(records: _Records, field: str, dtype: type[np.generic]) -> np.ndarray | None:
    column = records.columns.get(field)
    return None if column is None else column.astype(dtype)


def _labels(records: _Records, fields: Iterable[str]) -> np.ndarray | None:
    """Text of the first of `fields` that is there."""
    for field in fields:
        if field in records.columns:
            values, index = np.unique(records.columns[field], return_inverse=True)
            return np.array([str(value) for value in values])[index]
    return None


def _box(records: _Records) -> np.ndarray | None:
    """Box size that the rows claim; 0 where they claim no square."""
    shape = records.columns.get(_BOX)
    if shape is None or shape.dtype.kind not in "iu" or shape.ndim != 2:
        return None
    square = (shape == shape[:, :1]).all(axis=1)
    return np.where(square, shape[:, 0], 0).astype(np.int64)


def _image_names(paths: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Give every distinct stack a number.

    Parameters
    ----------
    paths
        Bytes or str, (n_rows,).

    Returns
    -------
    name_of_row : ndarray
        int64, (n_rows,).
    names : tuple of str
        In order of their first row.
    """
    # A dictionary is five times faster than np.unique, which sorts long strings.
    number_of: dict[bytes | str, int] = {}
    raw_of_row = np.empty(len(paths), dtype=np.int64)
    for start in range(0, len(paths), _ROWS_AT_ONCE):
        block = paths[start : start + _ROWS_AT_ONCE].tolist()
        raw_of_row[start : start + len(block)] = [
            number_of.setdefault(raw, len(number_of)) for raw in block
        ]
    names: dict[str, int] = {}
    name_of_raw = [names.setdefault(_text(raw), len(names)) for raw in number_of]
    return np.array(name_of_raw, dtype=np.int64)[raw_of_row], tuple(names)


def _text(raw: bytes | str) -> str:
    """Decode a fixed-length string, which ends at its first NUL."""
    text = raw.decode("utf-8", errors="surrogateescape") if isinstance(raw, bytes) else raw
    return text.split("\0", 1)[0].strip()


def _abridged(fields: Sequence[str]) -> list[str]:
    """Name the fields of groups that matter here, and of others only the group."""
    shown = (
        f if f.split("/")[0] in {"uid", "blob", "ctf"} else f.split("/")[0] + "/*" for f in fields
    )
    return list(dict.fromkeys(shown))


def _remedy_missing(kind: Literal["cryosparc", "job"], rejected: Sequence[str]) -> str:
    looked = f" Looked at beside it: {'; '.join(rejected)}." if rejected else ""
    if kind == "job":
        return f"Copy the job's other .cs files into its folder.{looked}"
    return (
        "Give the .cs file of the same particles that has them with --passthrough (often "
        "*_passthrough_particles.cs or the job's *_particles.cs), or the group's .csg file."
        f"{looked}"
    )


def _no_image_fields(
    records: _Records, missing: Sequence[str], rejected: Sequence[str]
) -> MetadataError:
    remedy = _remedy_missing("cryosparc", rejected)
    if not any(field.startswith("blob/") for field in records.fields):
        remedy += (
            " If the rows describe the stacks of a restack or downsample job in order, use "
            "`cryolike convert job`."
        )
    problem = Problem(
        message=f"required fields are missing: {', '.join(missing)}",
        remedy=remedy,
        file=records.path,
        places=[f"fields present: {', '.join(_abridged(records.fields)) or 'none'}"],
    )
    return MetadataError(problem)


# What is allowed but doubtful, or not used


def _notices(records: _Records) -> list[Notice]:
    noted = [*_ignored(records), *_degrees(records)]
    uid = records.columns.get("uid")
    if uid is not None and (n := len(uid) - len(np.unique(uid))):
        noted.append(Notice(f"{n:,} of {len(uid):,} rows repeat the uid of an earlier row."))
    box = _box(records)
    if box is not None and (n := int((box == 0).sum())):
        noted.append(Notice(f"{_BOX} is not square in {n:,} of {len(box):,} rows: not used there."))
    groups = [field.split("/")[0] for field in records.fields if field.endswith("/pose")]
    if groups:
        noted.append(Notice(f"Poses ({', '.join(groups)}) are not read.", "note"))
    return noted


def _ignored(records: _Records) -> list[Notice]:
    """Name fields that change the physics and are not used."""
    noted = []
    for field, neutral in ((_BFACTOR, 0), (_SCALE, 1)):
        column = _numeric(records, field)
        if column is not None and (n := int((column != neutral).sum())):
            noted.append(
                Notice(f"{field} is not {neutral} in {n:,} of {len(column):,} rows: ignored.")
            )
    for field, what in {**_IGNORED, _ANISOMAG: "anisotropic magnification"}.items():
        column = _numeric(records, field)
        if column is None:
            continue
        # Zeros mean none for all of them: the magnification matrix is stored minus the identity.
        size = np.nan_to_num(np.abs(column.reshape(len(column), -1))).max(axis=1)
        if n := int((size != 0).sum()):
            largest = f"{100 * size.max():.3g} %" if field == _ANISOMAG else f"{size.max():.4g} Å"
            noted.append(
                Notice(
                    f"{field} ({what}, at most {largest}) is not zero in {n:,} of {len(size):,} "
                    "rows: ignored."
                )
            )
    return noted


def _numeric(records: _Records, field: str) -> np.ndarray | None:
    column = records.columns.get(field)
    return None if column is None or column.dtype.kind not in "iuf" else column.astype(np.float64)


def _degrees(records: _Records) -> list[Notice]:
    """Doubt angles beyond what programs leave unwrapped."""
    noted = []
    for field, turns in (("ctf/df_angle_rad", 2), ("ctf/phase_shift_rad", 1)):
        column = records.columns.get(field)
        if column is not None and (n := int((np.abs(column) > turns * 2 * np.pi).sum())):
            noted.append(
                Notice(
                    f"{field} looks like degrees: beyond ±{2 * turns}π in {n:,} of "
                    f"{len(column):,} rows; taken as radians."
                )
            )
    return noted


# Job directories


def _passthrough_file(folder: Path) -> Path:
    """Find ``J4_passthrough_particles.cs``, which old versions call ``P1_J4_…``."""
    name = f"{folder.name}_passthrough_particles.cs"
    older = sorted(folder.glob(f"P*_{name}"))
    file = folder / name
    if not file.exists() and len(older) == 1:
        file = older[0]
    if not file.exists():
        there = ", ".join(sorted(f.name for f in folder.glob("*.cs"))) or "no .cs file"
        problem = Problem(
            message="there is no such file",
            remedy=f"In the job's folder: {there}. Wait until the job has finished; a .cs file "
            "that says where its images are is read with `cryolike convert cryosparc`.",
            file=str(file),
            kind="missing",
        )
        raise MissingFileError(problem)
    return file


def _with_image_scale(records: _Records, others: Sequence[Path]) -> _Records:
    """Join the file that holds pixel size and sign, where the rows lack them and one does."""
    missing = _missing(records, (_FIELDS["pixel_size_A"], _FIELDS["contrast_sign"]))
    if not missing:
        return records
    fits, _ = _search(records, others, missing)
    if fits and _last(fits) is None:
        notice = Notice(
            f"{', '.join(missing)} missing in {records.name}; {len(fits)} files beside it have "
            f"them ({', '.join(file.name for file in fits)}), so none is used."
        )
        return replace(records, notices=(*records.notices, notice))
    return _join_found(records, fits, missing, level="note") if fits else records


def _job_stacks(folder: Path) -> tuple[list[Path], list[Notice]]:
    """List the job's stacks in order of their numbers."""
    there = [name for name in _STACK_NAMES if (folder / name).is_dir()]
    if not there:
        raise _no_stacks(folder, f"there is no folder {' or '.join(_STACK_NAMES)}")
    chosen, pattern = there[0], _STACK_NAMES[there[0]]
    by_number: dict[int, list[Path]] = {}
    for file in sorted((folder / chosen).iterdir()):
        if match := pattern.fullmatch(file.name):
            by_number.setdefault(int(match.group(1)), []).append(file)
    if not by_number:
        other = f" (there are both folders; {chosen} counts)" if len(there) > 1 else ""
        raise _no_stacks(folder / chosen, f"there are no batch_*.mrc stacks{other}")
    raise_problems(_numbering_problems(folder / chosen, by_number))
    notices = []
    if len(there) > 1:
        notices.append(Notice(f"{folder.name} has both {' and '.join(there)}: {chosen} used."))
    return [by_number[number][0] for number in sorted(by_number)], notices


def _no_stacks(folder: Path, message: str) -> MissingFileError:
    problem = Problem(
        message=message,
        remedy="Give a finished restack or downsample job; a .cs file that says where its images "
        "are is read with `cryolike convert cryosparc`.",
        file=str(folder),
        kind="missing",
    )
    return MissingFileError(problem)


def _numbering_problems(folder: Path, by_number: Mapping[int, Sequence[Path]]) -> list[Problem]:
    """Find stacks that are there twice, or missing between others."""
    problems = [
        Problem(
            message=f"{len(files)} stacks have the number {number}: "
            f"{', '.join(file.name for file in files)}",
            remedy="Leave only the right one in the folder.",
            file=str(folder),
        )
        for number, files in sorted(by_number.items())
        if len(files) > 1
    ]
    last = max(by_number)
    n_absent = last + 1 - len(by_number)
    if n_absent:
        first_absent = next(i for i in range(last) if i not in by_number)
        after = [by_number[number][0].name for number in sorted(by_number) if number > first_absent]
        absent = f"number {first_absent}" + (f" and {n_absent - 1:,} more" if n_absent > 1 else "")
        problems.append(
            Problem(
                message=f"stacks are not numbered without a gap from 0: {absent} missing, but "
                f"{len(after)} with higher numbers are there",
                remedy="Copy the missing stacks, or run the job again: rows apply to images in "
                "sequence.",
                file=str(folder),
                places=[f"there: {name}" for name in after],
            )
        )
    return problems


def _count_images(stacks: Sequence[Path]) -> list[int]:
    """Images of each stack, from the headers; all unreadable ones in one error."""
    counts: list[int] = []
    problems: list[Problem] = []
    for stack in stacks:
        try:
            counts.append(read_stack_header(stack).n_images)
        except CryoLikeError as error:
            problems += error.problems
    raise_problems(problems)
    return counts


def _count_mismatch(
    records: _Records, stacks: Sequence[Path], n_images: Sequence[int]
) -> MetadataError:
    problem = Problem(
        message=f"{records.n_rows:,} rows, but the {len(stacks):,} stacks in {stacks[0].parent} "
        f"hold {sum(n_images):,} images",
        remedy="Rows apply to images in sequence: the files must be of one finished job.",
        file=records.path,
        places=[f"{stack.name}: {n:,} images" for stack, n in zip(stacks, n_images, strict=True)],
    )
    return MetadataError(problem)
