"""Comparison of each image with one pose, by sums over the grid."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from cryolike.physics.compiled import _compiled
from cryolike.scoring.comparison import ComparedGrid, ImageMoments, displaced

__all__ = ["sums_at_poses"]

_U = np.uint64


@_compiled
@no_type_check
def _sum(images, ctf, templates, factors, ones, view, inplane, weight, out):
    """Sum over shells and angles.

    Parameters
    ----------
    images, templates, factors, ones
        Parts of complex numbers in turn: (n_images, n_shells, 2 · n_angles), (n_views, n_shells,
        2 · n_angles), (n_images, n_shells, 2 · n_kept), (n_shells, 2 · n_angles).
    ctf
        (n_images, n_shells, n_angles).
    view, inplane
        (n_images,): which template, and by how many angles it is turned.
    weight
        (n_shells,).
    out
        (3, n_images), float64: gets ⟨X, X⟩, ⟨X, image⟩, ⟨X, ones⟩.
    """
    n_angles, n_kept = _U(ctf.shape[2]), _U(factors.shape[2] // 2)
    for i in range(images.shape[0]):
        turn = _U(inplane[i])
        out[:, i] = 0
        for k in range(images.shape[1]):
            image, of_ctf, one, factor = images[i, k], ctf[i, k], ones[k], factors[i, k]
            template, xx, xy, xs = templates[view[i], k], 0.0, 0.0, 0.0
            for begin, end, back in (
                (_U(0), min(turn, n_kept), n_angles - turn),
                (min(turn, n_kept), n_kept, _U(0) - turn),
            ):
                for j in range(begin, end):
                    at, of_template = _U(2) * j, _U(2) * (j + back)
                    t_re, t_im = template[of_template], template[of_template + _U(1)]
                    f_re, f_im = factor[at], factor[at + _U(1)]
                    x_re = of_ctf[j] * (t_re * f_re - t_im * f_im)
                    x_im = of_ctf[j] * (t_re * f_im + t_im * f_re)
                    xx += np.float64(x_re * x_re + x_im * x_im)
                    xy += np.float64(x_re * image[at] + x_im * image[at + _U(1)])
                    xs += np.float64(x_re * one[at] + x_im * one[at + _U(1)])
            out[0, i] += weight[k] * xx
            out[1, i] += weight[k] * xy
            out[2, i] += weight[k] * xs


def sums_at_poses(
    moments: ImageMoments,
    templates: Tensor,
    grid: ComparedGrid,
    view: Int[np.ndarray, " n_images"],
    inplane: Int[np.ndarray, " n_images"],
    shift_A: Float[np.ndarray, "n_images 2"],
) -> Float[np.ndarray, "3 n_images"]:
    """Compare each image with the template of one pose, turned, displaced, and with its CTF.

    Runs on a processor, wherever images and templates are, in the thread that calls it.

    Parameters
    ----------
    moments
        The images.
    templates
        Of all views.
    grid
        What they are compared on.
    view, inplane
        Numbers of the views and in-plane angles.
    shift_A
        Displacements δx and δy, Å.

    Returns
    -------
    ndarray
        I_xx, I_xy and I_xs, float64.
    """
    half, ctf = grid.half_circle(), moments.ctf.cpu().numpy()
    factors = displaced(shift_A, half, templates.dtype)
    if templates.device.type != "cpu":
        templates, view = templates[view].cpu(), np.arange(len(view))
    images = moments.images.cpu()
    parts = (
        array.numpy().view(ctf.dtype)
        for array in (images, templates, factors, grid.ones.to(templates))
    )
    of_images, of_templates, of_factors, of_ones = parts
    out = np.empty((3, len(images)))
    _sum(
        *(of_images, ctf, of_templates, of_factors, of_ones),
        *(view, inplane, half.weight_shells, out),
    )
    return out
