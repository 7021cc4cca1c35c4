r"""Likelihood of an image with scale, offset and noise variance integrated out.

An image I is explained as α·X + β·s + noise: X the template as the microscope would show it
(turned, displaced, with its CTF), s the transform of an image of ones, the noise white with
variance v. With flat priors for α, β and v the integral over all three is closed (after Cossio &
Hummer, J. Struct. Biol. 184, 427 (2013))::

    log L = −p log D − ½ log A + (2 − N)/2 · log 2π + log Γ(p) + p log(2 I_ss),   p = N/2 − 2
    A = I_xx I_ss − I_sx²,   B = I_xy I_ss − I_sx I_sy,   D = I_yy I_ss − I_sy² − B²/A

where I_ab are sums over the N real values compared. It depends on the correlations x, u and v of X
with I, of X with s and of I with s, on I_xx, and on terms that all poses have in common.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from torch import Tensor

from cryolike.descriptor import ImageDescriptor
from cryolike.errors import UsageError

__all__ = ["CountedValues", "log_likelihood_of_image", "log_likelihood_of_pose", "n_compared"]

CountedValues = Literal["disc", "box"]
"""Which values of an image count as compared."""


def n_compared(descriptor: ImageDescriptor, counted: CountedValues = "disc") -> float:
    """Count the independent real values that a comparison on the polar grid compares.

    Parameters
    ----------
    descriptor
        Of the images.
    counted
        'disc': those of the disc of frequencies that the polar grid covers, π (2 radius_max)²;
        'box': all pixels of the box, as published, which makes the likelihood too sharp.

    Returns
    -------
    float
        N.

    Raises
    ------
    UsageError
        Where there are too few for the integral over scale, offset and variance to exist.
    """
    side = descriptor.cartesian_grid.side_px
    n = (
        float(side**2)
        if counted == "box"
        else math.pi * (2 * descriptor.polar_grid.radius_max) ** 2
    )
    if n <= 4:
        msg = f"only {n:.3g} values are compared; take larger images or a higher resolution."
        raise UsageError(msg)
    return n


def log_likelihood_of_pose(x: Tensor, u: Tensor, v: Tensor, i_xx: Tensor, n: float) -> Tensor:
    """Compute the part of log L that differs between poses.

    Parameters
    ----------
    x
        Correlation I_xy / √(I_xx I_yy) of template and image.
    u
        Correlation I_sx / √(I_xx I_ss) of the template with an image of ones.
    v
        Correlation I_sy / √(I_yy I_ss) of the image with an image of ones.
    i_xx
        Power of the template as the microscope shows it.
    n
        Number of values compared.

    Returns
    -------
    Tensor
        Nats, of the shape that the arguments broadcast to; add `log_likelihood_of_image`.
    """
    free = 1 - u * u
    unexplained = 1 - v * v - (x - u * v).square() / free
    # An image that is explained entirely has an infinite likelihood; rounding may go beyond it
    unexplained = unexplained.clamp_min(1e-30)
    return -(n / 2 - 2) * unexplained.log() - free.log() / 2 - i_xx.log() / 2


def log_likelihood_of_image(i_yy: np.ndarray, i_ss: float, n: float) -> np.ndarray:
    """Compute the part of log L that all poses have in common.

    Parameters
    ----------
    i_yy
        Power of each image.
    i_ss
        Power of an image of ones.
    n
        Number of values compared.

    Returns
    -------
    ndarray
        Nats, of the shape of `i_yy`.
    """
    p = n / 2 - 2
    constant = (2 - n) / 2 * math.log(2 * math.pi) + math.lgamma(p) + p * math.log(2)
    common: np.ndarray = constant - p * np.log(i_yy) - math.log(i_ss) / 2
    return common
