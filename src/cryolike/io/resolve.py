"""From the stack names that metadata writes to files on disk, all problems at once."""

from __future__ import annotations

import posixpath
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryolike.errors import LazyPlaces, Notice, Problem
from cryolike.particles import UNREADABLE_IMAGE, ParticleTable

__all__ = ["ResolvedFiles", "resolve_image_files"]

_MRC_TWIN = {".mrc": ".mrcs", ".mrcs": ".mrc"}


@dataclass(frozen=True, kw_only=True)
class ResolvedFiles:
    """Where the stacks of a table are.

    Parameters
    ----------
    paths
        One for each of the table's `image_files`; None where it was not found.
    problems
        Missing files and clashing names.
    notices
        Which folders names were found in, and which names were changed.
    """

    paths: tuple[Path | None, ...]
    problems: tuple[Problem, ...]
    notices: tuple[Notice, ...]


def resolve_image_files(table: ParticleTable, folder: str | Path = "") -> ResolvedFiles:
    """Find the stacks that a table names.

    Parameters
    ----------
    table
        Names in `image_files`. A leading '>' (exported cryoSPARC results) means beside the
        metadata file.
    folder
        Where given, only file names count and they are looked for there and nowhere else; where
        two names of the set end in the same file name, the whole name counts, below the folder.
        Without it a name is taken relative to the working directory, then to the metadata file's
        folder, then to each folder above that one.

    Returns
    -------
    ResolvedFiles
        Parallel to the table's `image_files`.
    """
    if str(folder):
        return _resolve_in_folder(table, Path(folder))
    return _resolve_by_search(table)


def _existing(path: Path) -> Path | None:
    """Return the file, or its twin with .mrc for .mrcs or the reverse."""
    if _is_file(path):
        return path
    twin = path.with_suffix(_MRC_TWIN[path.suffix]) if path.suffix in _MRC_TWIN else path
    return twin if _is_file(twin) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or one that holds NUL
        return False


def _plain(name: str) -> str:
    """Name without the mark of exported files and without './' and the like."""
    plain = name.removeprefix(">").strip()
    return posixpath.normpath(plain) if plain else ""


def _without_borrowed(
    wanted: Sequence[Path], paths: Sequence[Path | None]
) -> tuple[Path | None, ...]:
    """Drop twins that are another name's own file: two names never share one stack's pixels."""
    own = {path for want, path in zip(wanted, paths, strict=True) if path == want}
    return tuple(
        None if path != want and path in own else path
        for want, path in zip(wanted, paths, strict=True)
    )


def _resolve_in_folder(table: ParticleTable, folder: Path) -> ResolvedFiles:
    if why_not := _why_no_folder(folder):
        problem = Problem(
            message=f"the folder given for the stacks, {folder}, {why_not}",
            remedy="Correct it, or leave it out to use the paths in the metadata.",
            kind="missing",
        )
        return ResolvedFiles(
            paths=(None,) * len(table.image_files), problems=(problem,), notices=()
        )
    names = [_plain(name) for name in table.image_files]
    by_basename: defaultdict[str, set[str]] = defaultdict(set)
    for name, is_readable in zip(names, _readable(table), strict=True):
        if is_readable:
            by_basename[Path(name).name].add(name)
    clashes = [sorted(group) for group in by_basename.values() if len(group) > 1]
    if not clashes:
        wanted = [folder / Path(name).name for name in names]
        notices: list[Notice] = []
    else:
        wanted = [folder / name.lstrip("/") for name in names]
        notices = [
            Notice("Stacks of different folders share a name: whole paths are used.", "note")
        ]
    paths = _without_borrowed(wanted, [_existing(path) for path in wanted])
    if clashes and any(
        path is None and ok for path, ok in zip(paths, _readable(table), strict=True)
    ):
        problem = Problem(
            message="stacks of different folders share a file name, so the folder given for the "
            f"stacks, {folder}, does not tell which is meant",
            remedy=f"Keep their folders below {folder}, or leave the folder out.",
            file=", ".join(table.metadata_files),
            places=[" and ".join(group) for group in clashes],
        )
        return ResolvedFiles(paths=paths, problems=(problem,), notices=())
    return ResolvedFiles(
        paths=paths,
        problems=_missing(
            table,
            paths,
            [[path] for path in wanted],
            where="",
            remedy="Correct the folder given (--folder), leave it out to look where the paths in "
            "the metadata say",
        ),
        notices=(*notices, *_twin_notices(wanted, paths)),
    )


def _why_no_folder(folder: Path) -> str:
    try:
        if folder.is_dir():
            return ""
        return "is not a folder" if folder.exists() else "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be looked at: {getattr(error, 'strerror', '') or error}"


def _resolve_by_search(table: ParticleTable) -> ResolvedFiles:
    bases = _search_bases(table.metadata_files)
    used: Counter[Path] = Counter()
    wanted: list[Path] = []
    paths: list[Path | None] = []
    for name in table.image_files:
        # cryoSPARC marks exported files, which lie beside their .cs, with '>'
        order = [*bases[1:], bases[0]] if name.startswith(">") else bases
        places = [(base, base / _plain(name)) for base in order]
        hit = next(
            (place for place in places if _is_file(place[1])),
            next(((base, twin) for base, path in places if (twin := _existing(path))), None),
        )
        wanted.append((hit[0] if hit else order[0]) / _plain(name))
        paths.append(hit[1] if hit else None)
        if hit and not Path(_plain(name)).is_absolute():
            used[hit[0]] += 1
    found = _without_borrowed(wanted, paths)
    tried = [[base / _plain(name) for base in bases] for name in table.image_files]
    notices = list(_twin_notices(wanted, found))
    elsewhere = {base: n for base, n in used.items() if base != bases[0] or len(used) > 1}
    if elsewhere:
        where = " and ".join(f"{base.absolute()} ({n:,})" for base, n in used.items())
        level = "warning" if len(used) > 1 else "note"
        notices.append(Notice(f"Stacks were found relative to {where}.", level))  # type: ignore[arg-type]
    return ResolvedFiles(
        paths=found,
        problems=_missing(
            table,
            found,
            tried,
            where=f" (in {_listed(bases)})",
            remedy=f"{_folder_hint(table, found)}Give the folder that holds the stacks (--folder), "
            "run in the folder the paths are relative to",
        ),
        notices=tuple(notices),
    )


def _search_bases(metadata_files: Iterable[str]) -> list[Path]:
    """Working directory, then the metadata files' folders and all above them."""
    folders = [Path(file).absolute().parent for file in metadata_files]
    above = [base for folder in dict.fromkeys(folders) for base in (folder, *folder.parents)]
    return [Path(), *(base for base in dict.fromkeys(above) if base != Path.cwd())]


def _listed(bases: Sequence[Path]) -> str:
    shown = ["the working directory", *(str(base) for base in bases[1:3])]
    return ", ".join(shown) + (" and the folders above" if len(bases) > 3 else "")


def _twin_notices(wanted: Sequence[Path], paths: Sequence[Path | None]) -> list[Notice]:
    pairs = zip(wanted, paths, strict=True)
    n_twins = sum(path is not None and path.suffix != want.suffix for want, path in pairs)
    if not n_twins:
        return []
    message = f"{n_twins:,} stacks were found under .mrc instead of .mrcs, or the reverse."
    return [Notice(message, "note")]


def _folder_hint(table: ParticleTable, paths: Sequence[Path | None]) -> str:
    """Say where files of the missing names are, if they lie beside the metadata."""
    folders = {Path(file).absolute().parent for file in table.metadata_files}
    for name, path in zip(table.image_files, paths, strict=True):
        basename = Path(_plain(name)).name
        for folder in folders if path is None and basename else ():
            if _existing(folder / basename):
                return f"{folder} holds a file named {basename}: is that the folder to give? "
    return ""


def _readable(table: ParticleTable) -> list[bool]:
    """Tell of which names a file can be made out; readers report others, such as '0@x.mrcs'."""
    readable = np.zeros(len(table.image_files), dtype=bool)
    readable[table.image_file_index[table.image_index != UNREADABLE_IMAGE]] = True
    return readable.tolist()


def _missing(
    table: ParticleTable,
    paths: Sequence[Path | None],
    tried: Sequence[Sequence[Path]],
    where: str,
    remedy: str,
) -> tuple[Problem, ...]:
    is_named = np.array(_readable(table), dtype=bool)
    is_missing = is_named & np.array([path is None for path in paths], dtype=bool)
    if not is_missing.any():
        return ()
    missing = np.flatnonzero(is_missing)
    rows = np.flatnonzero(is_missing[table.image_file_index])

    def describe(i: int) -> str:
        file = int(missing[i])
        name = _plain(table.image_files[file]) or "(no name)"
        return _what_is_there(tried[file]) or (f"{name}{where}" if where else str(tried[file][0]))

    return (
        Problem(
            message=f"{missing.size:,} of {int(is_named.sum()):,} files not found "
            f"({rows.size:,} of {len(table):,} rows)",
            reason="file not found",
            remedy=f"{remedy}, or leave these rows out with --on-bad-row skip.",
            file=", ".join(table.metadata_files),
            rows=rows,
            places=LazyPlaces(missing.size, describe),
            kind="missing",
        ),
    )


def _what_is_there(tried: Sequence[Path]) -> str:
    """Say what is in the first of the places tried where there is anything, but no file."""
    for path in tried:
        with suppress(OSError, ValueError):  # nothing there, or no possible name
            try:
                mode = path.stat().st_mode
            except PermissionError:
                return f"{path} may not be looked at: no permission"
            except OSError:
                target = path.readlink()
                return f"{path} is a symbolic link to {target}, which does not exist here"
            if path.name and not stat.S_ISREG(mode):
                return f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}"
    return ""
