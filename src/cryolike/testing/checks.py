"""What must hold of every file, however damaged: it is read, or refused with one of our errors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

from cryolike.errors import CryoLikeError, Notice, Problem
from cryolike.io.columns import REQUIRED
from cryolike.io.mrc import StackReader
from cryolike.io.mrc_header import StackHeader
from cryolike.particles import ParticleTable
from cryolike.testing.mrc import HEADER_BYTES

__all__ = ["check_header", "check_problems", "check_table", "read_images", "result_or_refusal"]

_MAX_PIXELS = 2**22

Result = TypeVar("Result")


def result_or_refusal(
    function: Callable[..., Result], *arguments: object, **keywords: object
) -> Result | CryoLikeError:
    """Call something that takes users' files, and let no foreign error or warning pass.

    Parameters
    ----------
    function
        What to call.
    *arguments, **keywords
        What with.

    Returns
    -------
    object or CryoLikeError
        What it returned, or the error of ours that it raised. The error's message was made, which
        for some can itself go wrong.

    Raises
    ------
    Exception
        Any other error, and every warning as one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return function(*arguments, **keywords)
        except CryoLikeError as error:
            check_problems(error.problems)
            str(error)
            return error


def check_problems(problems: Iterable[Problem | Notice], n_rows: int | None = None) -> None:
    """Check that problems and notices can be printed, and name rows that there are.

    Parameters
    ----------
    problems
        Of an error or a table.
    n_rows
        Rows of the table, where they are of one.

    Raises
    ------
    AssertionError
        Where they do not.
    """
    for problem in problems:
        _require(bool(str(problem).strip()), f"{problem!r} has no text")
        rows = problem.rows if isinstance(problem, Problem) else None
        if rows is not None and n_rows is not None:
            is_ordered = rows.size > 0 and bool(np.all(np.diff(rows) > 0))
            _require(is_ordered, f"rows of '{problem}' are {rows}")
            is_within = bool(rows[0] >= 0 and rows[-1] < n_rows)
            _require(is_within, f"rows of '{problem}' are {rows}")


def check_table(table: ParticleTable) -> None:
    """Check what holds of every table, whatever file it was read from.

    Parameters
    ----------
    table
        As a reader returned it.

    Raises
    ------
    AssertionError
        Where something does not hold: rows out of order, indices that lead nowhere, columns of a
        wrong type, or a value that cannot be used in a row that no problem names.
    """
    n_rows = len(table)
    check_problems((*table.problems, *table.notices), n_rows)
    for name, n_possible in (
        ("metadata_index", len(table.metadata_files)),
        ("image_file_index", len(table.image_files)),
    ):
        index = getattr(table, name)
        _require(index.dtype == np.int64, f"{name} is {index.dtype}")
        _require(bool(np.all((index >= 0) & (index < n_possible))), f"{name} is {index}")
    usable = np.ones(n_rows, dtype=bool)
    for problem in table.problems:
        usable[slice(None) if problem.rows is None else problem.rows] = False
    for name in (*REQUIRED, "phase_shift_rad", "amplitude_contrast", "ctf_bfactor_A2", "ctf_scale"):
        column = getattr(table, name)
        _require(column.dtype == np.float64, f"{name} is {column.dtype}")
        _require(bool(np.isfinite(column[usable]).all()), f"{name} is {column}")
    _require(bool(np.all(table.image_index[usable] >= -1)), f"image_index is {table.image_index}")
    stacks = [table.image_files[i] for i in np.unique(table.image_file_index[usable])]
    _require(len(set(stacks)) == len(stacks), f"a stack is listed twice: {stacks}")
    positive = table.pixel_size_A[usable & ~np.isnan(table.pixel_size_A)]
    _require(bool(np.all((positive > 0) & (positive < np.inf))), f"pixel sizes are {positive}")
    if table.contrast_sign is not None:
        signs = table.contrast_sign[usable]
        _require(bool(np.all(np.abs(signs) == 1)), f"contrast_sign is {signs}")
    if table.box_px is not None:
        _require(bool(np.all(table.box_px[usable] >= 0)), f"box_px is {table.box_px}")
    if n_rows:
        table.image_name(n_rows - 1)
        _require(len(table.take(np.array([n_rows - 1]))) == 1, "taking a row fails")


def check_header(header: StackHeader) -> None:
    """Check what holds of the header of every stack that is accepted.

    Parameters
    ----------
    header
        From `cryolike.io.mrc_header.read_stack_header`.

    Raises
    ------
    AssertionError
        Where sizes are impossible, or the file too short for its images.
    """
    check_problems(header.notices)
    sizes = (header.n_images, header.box_px)
    _require(min(sizes) >= 1, f"{header.n_images} images of {header.box_px} pixels")
    _require(header.data_offset >= HEADER_BYTES, f"pixels begin at byte {header.data_offset}")
    is_whole = bool(header.compression) or header.promised_bytes <= header.file_size
    _require(is_whole, f"{header.promised_bytes} bytes promised of {header.file_size}")
    size_A = header.pixel_size_A
    _require(math.isnan(size_A) or 0 < size_A < math.inf, f"pixel size is {size_A}")


def read_images(header: StackHeader) -> np.ndarray:
    """Read all images of a stack, or of a large one the first and the last.

    Parameters
    ----------
    header
        From `cryolike.io.mrc_header.read_stack_header`.

    Returns
    -------
    ndarray
        float32, (n, box_px, box_px); none where a single image is too large.
    """
    n_at_most = _MAX_PIXELS // header.box_px**2
    indices = np.arange(min(header.n_images, n_at_most))
    if 0 < n_at_most < header.n_images:
        indices[-1] = header.n_images - 1
    images = np.empty((len(indices), header.box_px, header.box_px), dtype=np.float32)
    with StackReader() as reader:
        reader.read(header, indices, images)
    return images


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
