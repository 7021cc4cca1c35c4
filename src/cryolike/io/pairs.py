"""STAR files and MRC stacks given in pairs: rows apply to images in sequence."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cryolike.errors import CryoLikeError, Problem, UsageError, counted, raise_problems
from cryolike.io.mrc_header import read_stack_header
from cryolike.io.star import read_star_without_names
from cryolike.particles import ParticleTable, concatenate_tables

__all__ = ["read_pairs"]

StrPath = str | os.PathLike[str]


def read_pairs(
    star_files: Sequence[StrPath],
    particle_files: Sequence[StrPath],
    *,
    defocus_angle_is_degree: bool = True,
    phase_shift_is_degree: bool = True,
    accept_ctf_applied: bool = False,
) -> ParticleTable:
    """Read pairs of a STAR file and the stack that its rows describe in order.

    Image names, poses and pixel sizes in the STAR files are not used.

    Parameters
    ----------
    star_files, particle_files
        As many stacks as STAR files, in the same order.
    defocus_angle_is_degree, phase_shift_is_degree
        False where the files give radians.
    accept_ctf_applied
        Read files although they say that their images are CTF-premultiplied or phase-flipped.

    Returns
    -------
    ParticleTable
        Rows of all pairs, one after the other; `metadata_index` says which pair. A pair whose
        numbers of rows and images differ is among its `problems`.

    Raises
    ------
    UsageError
        Where there are no files, or not as many of one kind as of the other.
    InputError
        Where files cannot be read; all of them are named.
    """
    if isinstance(star_files, str | os.PathLike) or isinstance(particle_files, str | os.PathLike):
        raise _wrong_lists("STAR files and stacks are not given as two lists")
    if len(star_files) != len(particle_files):
        n_stars, n_stacks = len(star_files), len(particle_files)
        raise _wrong_lists(f"{counted(n_stars, 'STAR file')} for {counted(n_stacks, 'MRC stack')}")
    if not star_files:
        raise _wrong_lists("No STAR files and no MRC stacks were given")
    tables: list[ParticleTable] = []
    unreadable: list[Problem] = []
    for star_file, particle_file in zip(star_files, particle_files, strict=True):
        table: ParticleTable | None = None
        try:
            table = read_star_without_names(
                Path(star_file),
                defocus_angle_is_degree=defocus_angle_is_degree,
                phase_shift_is_degree=phase_shift_is_degree,
                accept_ctf_applied=accept_ctf_applied,
            )
        except CryoLikeError as error:
            unreadable += error.problems
        n_images: int | None = None
        try:
            n_images = read_stack_header(particle_file).n_images
        except CryoLikeError as error:
            unreadable += error.problems
        if table is not None:
            tables.append(_paired(table, Path(particle_file), n_images))
    if unreadable:
        # Without these files there is no whole table; tell what is wrong with the others too.
        raise_problems([*unreadable, *(p for table in tables for p in table.problems)])
    arguments = {
        "star_files": [str(Path(file).absolute()) for file in star_files],
        "particle_files": [str(Path(file).absolute()) for file in particle_files],
        "defocus_angle_is_degree": defocus_angle_is_degree,
        "phase_shift_is_degree": phase_shift_is_degree,
        "accept_ctf_applied": accept_ctf_applied,
    }
    return replace(concatenate_tables(tables), reader_arguments=arguments)


def _wrong_lists(message: str) -> UsageError:
    remedy = "Give a list of STAR files and a list of stacks, one for each, in the same order."
    return UsageError(Problem(message=message, remedy=remedy, kind="usage"))


def _paired(table: ParticleTable, particle_file: Path, n_images: int | None) -> ParticleTable:
    """Say which stack the rows describe, and check that it has as many images, if that is known."""
    table = replace(table, kind="paired", image_files=(str(particle_file),))
    if n_images in (None, len(table)):
        return table
    problem = Problem(
        message=f"{len(table):,} rows, but {particle_file} holds {n_images:,} images",
        remedy="Rows apply to images in sequence: give the stack that these rows describe.",
        file=table.metadata_files[0],
    )
    return replace(table, problems=(*table.problems, problem))
