"""Hypothesis strategies for whole files."""

from __future__ import annotations

import random
from collections.abc import Callable
from random import Random
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from cryolike.testing.cs import CsFile, make_cs_file
from cryolike.testing.damage import damage_cs, damage_mrc, damage_star
from cryolike.testing.mrc import MrcFile, make_mrc_file
from cryolike.testing.sets import ParticleSet, damage_set, make_particle_set
from cryolike.testing.star import StarFile, make_star_file

__all__ = [
    "cs_files",
    "damaged_cs_files",
    "damaged_mrc_files",
    "damaged_particle_sets",
    "damaged_star_files",
    "mrc_files",
    "particle_sets",
    "star_files",
]

Made = TypeVar("Made")


def _made(make: Callable[[Random], Made]) -> SearchStrategy[Made]:
    """Let Hypothesis make, and shrink, what a function makes from a source of random numbers."""

    def made(source: Random) -> Made:
        # Run-time type checkers draw from the global generator, which strategies must not touch.
        state = random.getstate()
        try:
            return make(source)
        finally:
            random.setstate(state)

    return st.randoms(use_true_random=False).map(made)


def star_files() -> SearchStrategy[StarFile]:
    """Give valid STAR files of particles.

    Returns
    -------
    SearchStrategy of StarFile
        As `make_star_file` makes them.
    """
    return _made(make_star_file)


def cs_files() -> SearchStrategy[CsFile]:
    """Give valid .cs files, some with a passthrough file.

    Returns
    -------
    SearchStrategy of CsFile
        As `make_cs_file` makes them.
    """
    return _made(make_cs_file)


def mrc_files() -> SearchStrategy[MrcFile]:
    """Give valid stacks.

    Returns
    -------
    SearchStrategy of MrcFile
        As `make_mrc_file` makes them.
    """
    return _made(make_mrc_file)


def particle_sets() -> SearchStrategy[ParticleSet]:
    """Give metadata together with the stacks that it names.

    Returns
    -------
    SearchStrategy of ParticleSet
        As `make_particle_set` makes them.
    """
    return _made(make_particle_set)


def damaged_star_files() -> SearchStrategy[bytes]:
    """Give STAR files that were damaged; few of them can still be read.

    Returns
    -------
    SearchStrategy of bytes
        Content of the file.
    """
    return _made(lambda source: damage_star(source, make_star_file(source).content))


def damaged_cs_files() -> SearchStrategy[bytes]:
    """Give .cs files that were damaged; few of them can still be read.

    Returns
    -------
    SearchStrategy of bytes
        Content of the file.
    """
    return _made(lambda source: damage_cs(source, make_cs_file(source).content))


def damaged_mrc_files() -> SearchStrategy[bytes]:
    """Give stacks that were damaged, compressed ones inside or outside.

    Returns
    -------
    SearchStrategy of bytes
        Content of the file.
    """
    return _made(lambda source: damage_mrc(source, make_mrc_file(source).content))


def damaged_particle_sets() -> SearchStrategy[ParticleSet]:
    """Give metadata and stacks, one of the files damaged.

    Returns
    -------
    SearchStrategy of ParticleSet
        With files that differ from what they mean.
    """
    return _made(lambda source: damage_set(source, make_particle_set(source)))
