"""What is shown beside images: templates as the microscope would show them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tests.score_sets import write_score_set

from cryolike.descriptor import ImageDescriptor
from cryolike.io.read import read_particles
from cryolike.physics.polar import PolarTransform
from cryolike.scoring.pictures import as_seen, make_gallery
from cryolike.scoring.plan import ScoreOptions, plan_scoring
from cryolike.scoring.run import score_particles
from cryolike.simulate import asymmetric_particle, project
from cryolike.store.scores import ScoreTable


def test_templates_are_turned_and_displaced_as_relion_does() -> None:
    """They equal exact projections at the whole pose, for any angle and displacement."""
    rng = np.random.default_rng(0)
    descriptor = ImageDescriptor.from_individual_values(40, 4.0, "double")
    transform = PolarTransform.of_descriptor(descriptor)
    model = replace(asymmetric_particle(36.0), sigmas_A=np.full(60, 7.0))
    euler = rng.uniform(-np.pi, np.pi, (20, 3))
    origins = rng.uniform(-15, 15, (20, 2))
    straight = np.concatenate([euler[:, :2], np.zeros((20, 1))], axis=1)
    templates = transform(torch.from_numpy(project(model, straight, 0 * origins, 40, 4.0)))
    wanted = transform(torch.from_numpy(project(model, euler, origins, 40, 4.0)))
    ours = as_seen(templates, descriptor, euler[:, 2], -origins[:, 0], -origins[:, 1])
    error = (ours - wanted).abs().amax(dim=(1, 2)) / wanted.abs().amax(dim=(1, 2))
    assert float(error.max()) < 2e-3


def test_gallery_shows_what_images_show(tmp_path: Path) -> None:
    """With the true poses, templates explain noisy images: only white noise is left."""
    data = write_score_set(tmp_path)
    options = ScoreOptions(viewing_distance=0.6, shift_max_px=0, plots=False)
    table = read_particles(data.star_file)
    plan = plan_scoring(table, [data.true], options)
    score_particles(plan, tmp_path / "out")
    rows = np.arange(len(table))

    def column(values: np.ndarray | None) -> np.ndarray:
        assert values is not None
        return np.asarray(values, dtype=np.float64)[:, None]

    truth = ScoreTable(
        source_row=table.source_row,
        image_name=np.array([table.image_name(int(row)) for row in rows], dtype=object),
        uid=None,
        structures=("true",),
        cross_correlation=column(rows),
        log_likelihood_optimal=column(rows),
        log_likelihood_integrated=column(rows),
        left_out=column(rows),
        rot_rad=column(table.rot_rad),
        tilt_rad=column(table.tilt_rad),
        psi_rad=column(table.psi_rad),
        shift_x_A=0 - column(table.origin_x_A),
        shift_y_A=0 - column(table.origin_y_A),
    )
    gallery = make_gallery(plan, truth, rows, 10)
    assert gallery.labels[0].startswith("row 0: true")
    assert gallery.labels[-1].startswith("row 29")
    signal = gallery.templates.var(axis=(1, 2))
    left = (gallery.images - gallery.templates).var(axis=(1, 2))
    explained = 1 - left / gallery.images.var(axis=(1, 2))
    # Signal and noise have equal variance in all pixels together
    assert np.median(explained) > 0.4
    assert np.median(signal / left) > 0.6
