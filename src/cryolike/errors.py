"""Everything that can go wrong with input or output, as one tree of exceptions.

::

    CryoLikeError
    ├── UsageError           (ValueError)         the caller's options contradict each other
    ├── InputError           (ValueError)         files or metadata cannot be used as they are
    │   ├── MetadataError                         a STAR, .cs or .csg file, or rows of it
    │   ├── StackError                            an MRC file or its header
    │   ├── ImageError                            pixels: blank, NaN or infinite images
    │   └── MissingFileError (FileNotFoundError)  a file that was named does not exist
    └── OutputError          (OSError)            results cannot be written or are damaged
        ├── OutputExistsError (FileExistsError)   results of an earlier run are in the way
        ├── FolderInUseError                      another run writes to the folder now
        └── IncompleteOutputError                 a converted set is damaged or unfinished

    CryoLikeWarning          (UserWarning)        a default was applied, a doubtful value accepted

What is wrong is collected as `Problem` values, so that one error can list all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

__all__ = [
    "CryoLikeError",
    "CryoLikeWarning",
    "FolderInUseError",
    "ImageError",
    "IncompleteOutputError",
    "InputError",
    "LazyPlaces",
    "MetadataError",
    "MissingFileError",
    "Notice",
    "OutputError",
    "OutputExistsError",
    "Problem",
    "StackError",
    "UsageError",
    "counted",
    "raise_problems",
]

N_EXAMPLES = 10
"""How many rows, files or images a message names before it only counts."""

N_PROBLEMS = 50
"""How many problems an error prints; its `problems` holds all."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, where it is, and what to do about it.

    Parameters
    ----------
    message
        What is wrong, without the place: ``"rlnVoltage is not a number"``.
    remedy
        What the user can do.
    file
        The file that holds the fault.
    rows
        Positions in the particle table (0-based) of the affected rows, or None where the fault
        is not one of single rows (then skipping rows does not help).
    places
        One short text a row, parallel to `rows`: ``"row 4 (line 31): 'abc'"``; or any other list
        of places, such as files.
    reason
        What is wrong with one row in a few words, for the list of skipped rows; `message` if
        empty.
    kind
        Which class of error this is.
    """

    message: str
    remedy: str = ""
    file: str = ""
    rows: np.ndarray | None = None
    places: Sequence[str] = ()
    reason: str = ""
    kind: Literal["metadata", "stack", "image", "missing", "usage"] = "metadata"

    def __str__(self) -> str:
        head = f"{self.file}: {self.message}" if self.file else self.message
        lines = [head, *(f"    {place}" for place in self.places[:N_EXAMPLES])]
        n_more = len(self.places) - N_EXAMPLES
        if n_more > 0:
            lines.append(f"    … and {n_more:,} more")
        if self.remedy:
            lines.append(f"    → {self.remedy}")
        return "\n".join(lines)

    def restricted_to(self, position_of_row: np.ndarray) -> Problem | None:
        """Keep only some rows.

        Parameters
        ----------
        position_of_row
            For every row of the old table its position in the new one, or −1.

        Returns
        -------
        Problem or None
            The same fault of the rows that are left; None where none is.
        """
        if self.rows is None:
            return self
        moved = position_of_row[self.rows]
        kept = np.flatnonzero(moved >= 0)
        if kept.size == 0:
            return None
        is_parallel = len(self.places) == self.rows.size
        places = _Picked(self.places, kept) if is_parallel else self.places
        return replace(self, rows=moved[kept], places=places)


class _Picked(Sequence[str]):
    """A choice from a list of places, made when it is printed (lists can hold millions)."""

    def __init__(self, places: Sequence[str], chosen: np.ndarray) -> None:
        self._places, self._chosen = places, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._places[int(i)] for i in self._chosen[index]]
        return self._places[int(self._chosen[index])]


class LazyPlaces(Sequence[str]):
    """Places described only when printed.

    Parameters
    ----------
    n_places
        How many there are.
    describe
        Text of the i-th.
    """

    def __init__(self, n_places: int, describe: Callable[[int], str]) -> None:
        self._n, self._describe = n_places, describe

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._describe(i) for i in range(*index.indices(self._n))]
        return self._describe(range(self._n)[index])


@dataclass(frozen=True)
class Notice:
    """Something the user should know that stops nothing.

    Parameters
    ----------
    message
        One sentence.
    level
        'warning': a default was applied or a doubtful value was accepted; 'note': just so.
    """

    message: str
    level: Literal["warning", "note"] = "warning"

    def __str__(self) -> str:
        return self.message


class CryoLikeWarning(UserWarning):
    """A default was applied or a doubtful value was accepted."""


class CryoLikeError(Exception):
    """Base of all errors that a user's files or options can cause.

    Parameters
    ----------
    problems
        A sentence, or everything that is wrong.

    Attributes
    ----------
    problems : tuple of Problem
        One entry for each fault.
    """

    problems: tuple[Problem, ...]

    def __init__(self, problems: str | Problem | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(message=problems)
        if isinstance(problems, Problem):
            problems = (problems,)
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        shown = self.problems[:N_PROBLEMS]
        lines = [f"{i}. {problem}" for i, problem in enumerate(shown, 1)]
        if len(self.problems) > len(shown):
            lines.append(f"… and {len(self.problems) - len(shown):,} more problems")
        return "\n".join([f"{len(self.problems):,} problems:", *lines])


class UsageError(CryoLikeError, ValueError):
    """The caller's options contradict each other or are out of range."""


class InputError(CryoLikeError, ValueError):
    """Files or metadata cannot be used as they are."""


class MetadataError(InputError):
    """A STAR, .cs or .csg file, or rows of it, cannot be used."""


class StackError(InputError):
    """An MRC file or its header cannot be used."""


class ImageError(InputError):
    """Pixels cannot be used: a blank, NaN or infinite image."""


class MissingFileError(InputError, FileNotFoundError):
    """A file that was named does not exist."""


class OutputError(CryoLikeError, OSError):
    """Results cannot be written or read."""


class OutputExistsError(OutputError, FileExistsError):
    """Results of an earlier run are in the way."""


class FolderInUseError(OutputError):
    """Another run writes to the same folder."""


class IncompleteOutputError(OutputError):
    """A converted set is damaged, or its run has not finished."""


def counted(n: int, noun: str) -> str:
    """Count in words: ``"1 stack"``, ``"1,204 stacks"``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


_CLASS_OF_KIND: dict[str, type[CryoLikeError]] = {
    "metadata": MetadataError,
    "stack": StackError,
    "image": ImageError,
    "missing": MissingFileError,
    "usage": UsageError,
}


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise one error that lists all problems; do nothing where there are none.

    Raises
    ------
    MetadataError, StackError, ImageError, MissingFileError, UsageError
        Where all problems are of one kind.
    InputError
        Where they are of several.
    """
    problems = tuple(problems)
    if not problems:
        return
    kinds = {problem.kind for problem in problems}
    raise (_CLASS_OF_KIND[kinds.pop()] if len(kinds) == 1 else InputError)(problems)
