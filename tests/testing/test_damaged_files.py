"""Generated damaged files: each is read, or refused with an error of ours; nothing else happens."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import HealthCheck, given, settings

from cryolike.conversion import inspect_particles, plan_conversion, survey
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.mrc_header import read_stack_header
from cryolike.io.star import read_star, read_star_without_names
from cryolike.testing import (
    ParticleSet,
    check_header,
    check_problems,
    check_table,
    damaged_cs_files,
    damaged_mrc_files,
    damaged_particle_sets,
    damaged_star_files,
    read_images,
    result_or_refusal,
)

some = settings(max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@some
@given(damaged_star_files())
def test_damaged_star_files_are_read_or_refused(content: bytes) -> None:
    """By both readers and by `inspect`."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.star"
        path.write_bytes(content)
        for reader in (read_star, read_star_without_names):
            table = result_or_refusal(reader, path)
            if not isinstance(table, Exception):
                check_table(table)
        result_or_refusal(inspect_particles, path)


@some
@given(damaged_cs_files())
def test_damaged_cs_files_are_read_or_refused(content: bytes) -> None:
    """Whatever their header promises, and never by running what is in them."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.cs"
        path.write_bytes(content)
        table = result_or_refusal(read_cryosparc, path)
        if not isinstance(table, Exception):
            check_table(table)


@some
@given(damaged_mrc_files())
def test_damaged_stacks_are_read_or_refused(content: bytes) -> None:
    """Header and images, also where little compressed data expand to much."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.mrcs"
        path.write_bytes(content)
        header = result_or_refusal(read_stack_header, path)
        if not isinstance(header, Exception):
            check_header(header)
            result_or_refusal(read_images, header)


@some
@given(damaged_particle_sets())
def test_damaged_sets_are_planned_or_refused(made: ParticleSet) -> None:
    """A survey lists what is wrong and raises nothing; a plan is whole or refused."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        made.write(folder)
        table = result_or_refusal(made.read, folder)
        if isinstance(table, Exception):
            return
        check_table(table)
        surveyed = result_or_refusal(survey, table)
        assert not isinstance(surveyed, Exception)
        check_problems((*surveyed.problems, *surveyed.notices), len(table))
        plan = result_or_refusal(plan_conversion, table)
        if not isinstance(plan, Exception):
            n_images = np.array([header.n_images for header in plan.headers])
            assert plan.n_images == len(table)
            assert np.all(plan.table.image_index < n_images[plan.table.image_file_index])
