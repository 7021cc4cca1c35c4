"""cryoSPARC files: ``.cs`` tables, ``.csg`` result groups, and joining of them by `uid`.

A ``.cs`` file is a NumPy file with one structured row for each particle. One job often spreads the
fields of its particles over several of them; rows that belong together share a `uid`, and only
that joins them here: their order and number differ between files.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from cryolike.errors import (
    CryoLikeError,
    LazyPlaces,
    MetadataError,
    Notice,
    Problem,
    counted,
    raise_problems,
)
from cryolike.io.columns import REQUIRED
from cryolike.io.sniff import CSDAT_MAGIC, NUMPY_MAGIC, read_head, recognise

__all__ = [
    "CsRecords",
    "join_by_uid",
    "join_found",
    "last_iteration",
    "load_cs",
    "load_group",
    "map_cs",
    "missing_fields",
    "search_files",
]

IMAGE_PATH, IMAGE_INDEX = "blob/path", "blob/idx"
FIELDS = {
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
AMPLITUDE_CONTRAST = ("ctf/amp_contrast", "ctf/ac", "ctf/amp_constrast")
"""The name in use, that of very old files, and a misspelling found in documentation."""

REQUIRED_CTF = tuple(FIELDS[name] for name in REQUIRED)
REQUIRED_IMAGE = (IMAGE_PATH, IMAGE_INDEX)
CLASSES = ("alignments3D/class", "alignments2D/class")
OPTICS_GROUP = "ctf/exp_group_id"
BOX = "blob/shape"
POSE, SHIFT, POSE_PIXEL_SIZE = "alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A"
"""Orientation, displacement, and the pixel size that displacements are counted in."""

IGNORED = {
    "ctf/shift_A": "image shift by aberration",
    "ctf/tilt_A": "beam tilt",
    "ctf/trefoil_A": "trefoil",
    "ctf/tetra_A": "tetrafoil",
}
ANISOMAG, BFACTOR, SCALE = "ctf/anisomag", "ctf/bfactor", "ctf/scale"
_USED = frozenset(
    {
        "uid",
        *REQUIRED_IMAGE,
        *FIELDS.values(),
        *AMPLITUDE_CONTRAST,
        *CLASSES,
        OPTICS_GROUP,
        BOX,
        POSE,
        SHIFT,
        POSE_PIXEL_SIZE,
        *IGNORED,
        ANISOMAG,
        BFACTOR,
        SCALE,
    }
)
_INTEGERS = frozenset({"uid", IMAGE_INDEX})
_NUMBERS = frozenset({*FIELDS.values(), *AMPLITUDE_CONTRAST, *CLASSES, OPTICS_GROUP})
_FLOATS: dict[str, tuple[int, ...]] = {POSE: (3,), SHIFT: (2,), POSE_PIXEL_SIZE: ()}
"""Floating-point fields, by the shape of a row's value."""

_GROUPS = frozenset(field.split("/")[0] for field in _USED) - {"uid"}
"""Result groups of a .csg that hold something used here."""

_MAX_HEADER_BYTES = 10_000_000
"""Files of jobs with a hundred classes have headers above NumPy's own limit."""

ROWS_AT_ONCE = 65_536

_GIVE_PARTICLES = "Give a particles .cs file as cryoSPARC wrote it."

_ITERATION = re.compile(r"(cryosparc_.*?J\d+)_(\d+)(_particles\.cs)")


@dataclass(frozen=True, kw_only=True, eq=False)
class CsRecords:
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


def missing_fields(records: CsRecords, fields: Iterable[str]) -> list[str]:
    """List those of `fields` that the records lack."""
    return [field for field in fields if field not in records.columns]


# Loading


def _fault(path: Path, message: str, remedy: str) -> MetadataError:
    return MetadataError(Problem(message=message, remedy=remedy, file=str(path)))


def load_cs(path: Path, groups: Collection[str] | None = None) -> CsRecords:
    """Copy the used columns of a .cs file (only those of `groups`, where given)."""
    mapped = map_cs(path)
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
    for start in range(0, len(mapped), ROWS_AT_ONCE):
        block = mapped[start : start + ROWS_AT_ONCE]
        for field, column in columns.items():
            column[start : start + ROWS_AT_ONCE] = block[field]
    _check_types(path, columns)
    return CsRecords(path=str(path), fields=fields, columns=columns, n_rows=len(mapped))


def map_cs(path: Path) -> np.ndarray:
    """Memory-map a .cs file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    ndarray
        Structured, (n_rows,).

    Raises
    ------
    MetadataError
        Where it is no .cs file, or damaged.
    MissingFileError
        Where there is no such file.
    """
    _check_magic(path)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # Headers that Python 2 wrote (cryoSPARC 2) are read, with a warning that helps nobody;
            # damaged ones give warnings of other kinds.
            warnings.simplefilter("ignore")
            mapped = np.load(
                path, mmap_mode="r", allow_pickle=False, max_header_size=_MAX_HEADER_BYTES
            )
    except OSError as error:
        message = f"the file cannot be read: {error.strerror or error}"
        raise _fault(path, message, "Copy it to a local disk.") from error
    except Exception as error:  # a dozen kinds for damaged headers, MemoryError among them
        # NumPy's own text would advise to allow pickles.
        raise _unreadable(path, str(error)) from None
    if mapped.dtype.names is None or mapped.ndim != 1:
        raise _fault(
            path,
            f"this is an array of {mapped.dtype} of shape {mapped.shape}, not a table of particles",
            _GIVE_PARTICLES,
        )
    if mapped.dtype.itemsize == 0:  # then the file's size does not limit the number of rows
        raise _fault(path, "the fields of its rows have no bytes", _GIVE_PARTICLES)
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
    if "EOF: " in reason or "mmap length" in reason:
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
    for_folder = "Give a file; for a whole job use `cryolike convert job PROJECT --job N`."
    head = read_head(path, wanted="a .cs file", for_folder=for_folder)
    if head.startswith(NUMPY_MAGIC):
        return
    if not head:
        raise _fault(path, "the file is empty (0 bytes)", "Copy it again or run the job again.")
    raise _fault(path, *_what_is_it(head))


def _what_is_it(head: bytes) -> tuple[str, str]:
    """Message and remedy for a file that is not NumPy's."""
    if found := recognise(head):
        but = "which cannot be read" if head.startswith(CSDAT_MAGIC) else "not a .cs file"
        return f"this is {found.name}, {but}", found.remedy or _GIVE_PARTICLES
    text = head.decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    if any(line.startswith(("results:", "group:")) for line in lines):
        return (
            "this is a result group (YAML), not a table of particles",
            "Give it with its ending .csg, or give the .cs files it lists.",
        )
    if any(line.startswith(("data_", "loop_")) for line in lines):
        return "this is a STAR file, not a .cs file", "Use `cryolike convert star`."
    kind = "binary data" if "\0" in text or "\ufffd" in text else "text"
    return f"this is {kind}, not a .cs file: it begins with {head[:12]!r}", _GIVE_PARTICLES


def _check_types(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Refuse columns whose type cannot hold what their name says."""
    problems = []
    for field, column in columns.items():
        shape = _FLOATS.get(field, ())
        if field in _INTEGERS:
            right, wanted = column.dtype.kind in "iu", "integers"
        elif field in _NUMBERS:
            right, wanted = column.dtype.kind in "iuf", "numbers"
        elif field in _FLOATS:
            right, wanted = column.dtype.kind == "f", "floating-point numbers"
        elif field == IMAGE_PATH:
            right, wanted = (
                column.dtype.kind in "SU" and _is_unicode(column),
                "strings of characters",
            )
        else:
            continue
        if not right or column.shape[1:] != shape:
            problems.append(
                Problem(
                    message=f"{field} is of type {column.dtype}{list(column.shape[1:]) or ''}, "
                    f"expected {wanted}, {shape[0] if shape else 'one'} a row",
                    remedy="Give the file as cryoSPARC wrote it.",
                    file=str(path),
                )
            )
    raise_problems(problems)


def _is_unicode(column: np.ndarray) -> bool:
    """Whether strings of four bytes a character hold nothing but characters."""
    if column.dtype.kind != "U" or column.dtype.itemsize == 0:
        return True
    codes = np.ascontiguousarray(column).view(column.dtype.byteorder + "u4")
    return int(codes.max()) <= sys.maxunicode


# Result groups


def load_group(path: Path) -> CsRecords:
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

    loaded: dict[Path, CsRecords] = {}
    problems: list[Problem] = []
    for file in files:
        try:
            loaded[file] = load_cs(file, groups_of[file])
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
        records = join_by_uid(records, loaded[file])
    return replace(records, further_files=(*records.further_files, str(path)))


def _parse_group(path: Path) -> dict[Any, Any]:
    """Parse the `results` of a .csg file."""
    remedy = "Export the group again, or give the .cs files themselves."
    head = read_head(path, wanted="a .csg file", for_folder=remedy)
    if head.startswith((NUMPY_MAGIC, CSDAT_MAGIC)):
        raise _fault(path, "this is a .cs file named .csg", "Give it with its ending .cs.")
    if found := recognise(head):
        raise _fault(path, f"this is {found.name}, not a .csg file", found.remedy or remedy)
    try:
        document = yaml.safe_load(path.read_bytes())
    except Exception as error:  # PyYAML raises a dozen kinds for values that it cannot make
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, RecursionError):
            reason = "its brackets nest too deeply"
        raise _fault(path, f"this is not a YAML file: {reason}", remedy) from error
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, dict) or not results:
        raise _fault(path, "the result group lists no results", remedy)
    return results


# Joining by uid


def _uid(records: CsRecords) -> np.ndarray:
    """Distinct uids, uint64 (a float holds only 53 bits of them)."""
    path = Path(records.path)
    if "uid" not in records.columns:
        raise _fault(path, "the field uid is missing, so rows cannot be joined", _REMEDY_JOIN)
    uid = records.columns["uid"].astype(np.uint64)
    values, counts = np.unique(uid, return_counts=True)
    repeated = values[counts > 1]
    if repeated.size:
        problem = Problem(
            message=f"{counted(repeated.size, 'uid')} found more than once, so rows cannot be "
            "joined",
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


def join_by_uid(main: CsRecords, other: CsRecords) -> CsRecords:
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


def search_files(
    main: CsRecords, files: Iterable[Path], missing: Sequence[str]
) -> tuple[list[Path], list[str]]:
    """Find files that hold all missing fields for all rows; say why others do not."""
    fits: list[Path] = []
    rejected: list[str] = []
    for file in files:
        if str(file) in (main.path, *main.further_files):
            continue
        try:
            names = map_cs(file).dtype.names or ()
            lacking = [field for field in missing if field not in names]
            if lacking:
                rejected.append(f"{file.name} lacks {', '.join(lacking)}")
            else:
                join_by_uid(main, load_cs(file, {"uid"}))
                fits.append(file)
        except CryoLikeError as error:
            rejected += [f"{Path(p.file).name}: {p.message}" for p in error.problems]
    return fits, rejected


def last_iteration(files: Sequence[Path]) -> Path | None:
    """Choose the only file, or the last of several iterations of one job; None if neither."""
    if len(files) == 1:
        return files[0]
    found = [(match, file) for file in files if (match := _ITERATION.fullmatch(file.name))]
    if len(found) < len(files) or len({match.group(1) for match, _ in found}) != 1:
        return None
    return max(found, key=lambda pair: int(pair[0].group(2)))[1]


def join_found(
    main: CsRecords,
    fits: Sequence[Path],
    missing: Sequence[str],
    *,
    level: Literal["warning", "note"],
) -> CsRecords:
    """Join the file that a search found."""
    chosen = last_iteration(fits)
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
    joined = join_by_uid(main, load_cs(chosen))
    return replace(joined, notices=(*joined.notices, notice))
