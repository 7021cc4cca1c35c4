r"""The contrast transfer function, in RELION's convention.

With spatial frequency s (1/Å) and azimuth θ, measured from x (the fast axis, columns) towards y::

    CTF(s, θ) = −sin γ · exp(−B s²/4) · scale
    γ(s, θ)   = −π λ Δf(θ) s² + (π/2) Cs λ³ s⁴ − φ − arcsin Q0
    Δf(θ)     = (U + V)/2 + (U − V)/2 · cos 2(θ − angle)

U and V are positive for underfocus, φ is the phase shift, Q0 the amplitude contrast. At zero
frequency and without a phase shift the function is +Q0: it belongs to images in which protein is
bright.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from cryolike.errors import UsageError
from cryolike.particles import ParticleTable
from cryolike.physics import compiled
from cryolike.units import A_PER_MM, electron_wavelength_A

__all__ = [
    "CtfCoefficients",
    "CtfParameters",
    "PolarCtf",
    "contrast_transfer_function",
    "ctf_on_pixels",
    "ctf_on_polar_grid",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class CtfParameters:
    """What the contrast transfer function of each image depends on.

    All columns have shape (n_images,) and are kept as float64.

    Parameters
    ----------
    defocus_u_A, defocus_v_A
        Defocus along the two principal axes, Å, positive for underfocus.
    defocus_angle_rad
        Angle from the x (fast) axis to the axis of `defocus_u_A`, towards +y.
    phase_shift_rad
        Phase-plate shift.
    spherical_aberration_mm, voltage_kV, amplitude_contrast
        Cs, acceleration voltage, and the amplitude-contrast fraction (0 to 1).
    bfactor_A2, scale
        Envelope exp(−B s²/4) and linear scale.

    Raises
    ------
    ValueError
        Where the columns differ in length.
    """

    defocus_u_A: np.ndarray
    defocus_v_A: np.ndarray
    defocus_angle_rad: np.ndarray
    phase_shift_rad: np.ndarray
    spherical_aberration_mm: np.ndarray
    voltage_kV: np.ndarray
    amplitude_contrast: np.ndarray
    bfactor_A2: np.ndarray
    scale: np.ndarray

    def __post_init__(self) -> None:
        shape = (len(self.defocus_u_A),)
        for column in fields(self):
            values = np.array(getattr(self, column.name), dtype=np.float64)
            if values.shape != shape:
                msg = f"column {column.name} has shape {values.shape}, expected {shape}"
                raise ValueError(msg)
            values.setflags(write=False)
            object.__setattr__(self, column.name, values)

    def __len__(self) -> int:
        return len(self.defocus_u_A)

    @classmethod
    def from_table(cls, table: ParticleTable) -> CtfParameters:
        """Parameters of all rows of a table, in its order."""
        return cls(**{c.name: getattr(table, _column(c.name)) for c in fields(cls)})

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> CtfParameters:
        """Parameters of all rows of the table of a converted set, in its order."""
        return cls(**{c.name: frame[_column(c.name)].to_numpy() for c in fields(cls)})

    def take(self, rows: np.ndarray | slice) -> CtfParameters:
        """Parameters of the chosen images, in the chosen order."""
        return CtfParameters(**{c.name: getattr(self, c.name)[rows] for c in fields(self)})


def _column(name: str) -> str:
    """Name of the column of a table that holds a parameter."""
    return {"bfactor_A2": "ctf_bfactor_A2", "scale": "ctf_scale"}.get(name, name)


@dataclass(frozen=True, kw_only=True, eq=False)
class CtfCoefficients:
    """What the function of each image takes of its parameters, float64, for use with many grids.

    Parameters
    ----------
    phase
        Coefficients of γ for s², s⁴, 1, s² cos 2θ and s² sin 2θ, (n_images, 5); radians, Å.
    bfactor_A2, scale
        (n_images,).
    """

    phase: np.ndarray
    bfactor_A2: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, parameters: CtfParameters) -> CtfCoefficients:
        """Coefficients of all images."""
        wavelength_A = electron_wavelength_A(parameters.voltage_kV)
        # Signed: U < V means that the axis of larger defocus is that of V.
        mean_A = (parameters.defocus_u_A + parameters.defocus_v_A) / 2
        deviation_A = (parameters.defocus_u_A - parameters.defocus_v_A) / 2
        cs_A = parameters.spherical_aberration_mm * A_PER_MM
        double_angle = 2 * parameters.defocus_angle_rad
        phase = [
            -np.pi * wavelength_A * mean_A,
            np.pi / 2 * cs_A * wavelength_A**3,
            -parameters.phase_shift_rad - np.arcsin(parameters.amplitude_contrast),
            -np.pi * wavelength_A * deviation_A * np.cos(double_angle),
            -np.pi * wavelength_A * deviation_A * np.sin(double_angle),
        ]
        return cls(
            phase=np.stack(phase, axis=1),
            bfactor_A2=parameters.bfactor_A2,
            scale=parameters.scale,
        )

    def __len__(self) -> int:
        return len(self.phase)

    def take(self, rows: np.ndarray | slice) -> CtfCoefficients:
        """Coefficients of the chosen images, in the chosen order."""
        return CtfCoefficients(**{name: values[rows] for name, values in vars(self).items()})


def contrast_transfer_function(
    parameters: CtfParameters,
    spatial_frequency_per_A: torch.Tensor,
    azimuth_rad: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """Contrast transfer functions of all images at the given frequencies.

    γ reaches hundreds of radians, so it is computed in float64 whatever `dtype` is.

    Parameters
    ----------
    parameters
        Of n_images images.
    spatial_frequency_per_A, azimuth_rad
        Polar coordinates of the frequencies: 1/Å, and the angle from x (columns) towards y.
        Their shapes broadcast to that of the grid.
    dtype
        Of the result.

    Returns
    -------
    torch.Tensor
        Shape (n_images, *grid), on the device of `spatial_frequency_per_A`.
    """
    grid = _Grid.of(spatial_frequency_per_A, azimuth_rad)
    return _values(_terms(CtfCoefficients.of(parameters), grid)).to(dtype)


class _Grid(NamedTuple):
    """What the function takes of frequencies and azimuths, all float64.

    Parameters
    ----------
    of_frequency
        Powers s², s⁴ and 1, (3, *shape of the frequencies).
    of_azimuth
        cos 2θ and sin 2θ, (2, *shape of the azimuths).
    """

    of_frequency: torch.Tensor
    of_azimuth: torch.Tensor

    @classmethod
    def of(cls, spatial_frequency_per_A: torch.Tensor, azimuth_rad: torch.Tensor) -> _Grid:
        """Prepare a grid, on the device of the frequencies; both get as many axes."""
        n_axes = max(spatial_frequency_per_A.ndim, azimuth_rad.ndim)
        frequency_per_A, azimuth = (
            grid.to(spatial_frequency_per_A.device, torch.float64)[(None,) * (n_axes - grid.ndim)]
            for grid in (spatial_frequency_per_A, azimuth_rad)
        )
        s2 = frequency_per_A.square()
        return cls(
            torch.stack([s2, s2.square(), torch.ones_like(s2)]),
            torch.stack([torch.cos(2 * azimuth), torch.sin(2 * azimuth)]),
        )


class _Terms(NamedTuple):
    """What the function is made of: −sin(phase + s² · swing) · envelope, all float64.

    Each depends on frequency or azimuth alone, which makes polar grids quick.

    Parameters
    ----------
    phase, envelope
        (n_images, *shape of the frequencies).
    s2
        Of the shape of the frequencies.
    swing
        (n_images, *shape of the azimuths).
    """

    phase: torch.Tensor
    s2: torch.Tensor
    swing: torch.Tensor
    envelope: torch.Tensor


def _terms(coefficients: CtfCoefficients, grid: _Grid) -> _Terms:
    s2 = grid.of_frequency[0]
    phase = torch.from_numpy(coefficients.phase).to(s2.device)
    bfactor, scale = (
        torch.tensor(column, device=s2.device).reshape(-1, *(1,) * s2.ndim)
        for column in (coefficients.bfactor_A2, coefficients.scale)
    )
    return _Terms(
        phase=_sum_of(phase[:, :3], grid.of_frequency),
        s2=s2,
        swing=_sum_of(phase[:, 3:], grid.of_azimuth),
        envelope=scale * torch.exp(-0.25 * bfactor * s2),
    )


def _sum_of(coefficients: torch.Tensor, functions: torch.Tensor) -> torch.Tensor:
    """Add up functions on a grid, for each row of coefficients."""
    values = functions.reshape(len(functions), -1)
    return (coefficients @ values).reshape(len(coefficients), *functions.shape[1:])


def _values(terms: _Terms) -> torch.Tensor:
    gamma = torch.addcmul(terms.phase, terms.s2, terms.swing)
    return gamma.sin_().neg_().mul_(terms.envelope)


def ctf_on_pixels(
    parameters: CtfParameters,
    n_pixels: int,
    pixel_size_A: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Contrast transfer functions at the frequencies of `torch.fft.rfft2` of square images.

    Parameters
    ----------
    parameters
        Of n_images images.
    n_pixels
        Box size.
    pixel_size_A
        Å per pixel.
    dtype, device
        Of the result.

    Returns
    -------
    torch.Tensor
        Shape (n_images, n_pixels, n_pixels // 2 + 1): y frequencies in rows, x in columns.
    """
    y = torch.fft.fftfreq(n_pixels, pixel_size_A, dtype=torch.float64, device=device)[:, None]
    x = torch.fft.rfftfreq(n_pixels, pixel_size_A, dtype=torch.float64, device=device)[None, :]
    return contrast_transfer_function(parameters, torch.hypot(x, y), torch.atan2(y, x), dtype=dtype)


class PolarCtf:
    """Contrast transfer functions on a polar grid, of which is computed once what all share.

    Parameters
    ----------
    radius_shells
        Radii k, shape (n_shells,); the spatial frequency is 2k / `box_size_A`.
    theta_shell
        Angles from x (columns) towards y, radians, shape (n_inplanes,).
    box_size_A
        Side of the box in Å.
    device
        Where they are computed.
    """

    def __init__(
        self,
        radius_shells: np.ndarray | torch.Tensor,
        theta_shell: np.ndarray | torch.Tensor,
        box_size_A: float,
        device: torch.device | str = "cpu",
    ) -> None:
        radius = torch.tensor(radius_shells, dtype=torch.float64, device=device)
        theta = torch.tensor(theta_shell, dtype=torch.float64, device=device)
        self._shape = len(radius), len(theta)
        # The function is even: where all opposite angles are on the grid too, half of them will do
        n_half = len(theta) // 2
        has_opposites = len(theta) % 2 == 0 and torch.allclose(
            theta[n_half:], theta[:n_half] + np.pi, rtol=0, atol=4e-15
        )
        angles = theta[:n_half] if has_opposites else theta
        self._grid = _Grid.of(2 * radius[:, None] / box_size_A, angles[None, :])

    def __call__(
        self,
        parameters: CtfParameters | CtfCoefficients,
        out: torch.Tensor | None = None,
        *,
        dtype: torch.dtype = torch.float64,
    ) -> torch.Tensor:
        """Compute those of some images.

        Parameters
        ----------
        parameters
            Of n_images images.
        out
            Where to put the result, contiguous and on the device.
        dtype
            Of the result where `out` is not given; float32 is several times as fast on a processor.

        Returns
        -------
        torch.Tensor
            Shape (n_images, n_shells, n_inplanes).

        Raises
        ------
        UsageError
            Where `out` has another shape or is not contiguous.
        """
        if isinstance(parameters, CtfParameters):
            parameters = CtfCoefficients.of(parameters)
        shape = (len(parameters), *self._shape)
        # Compiled code does not look where it writes
        if out is not None and (out.shape != shape or not out.is_contiguous()):
            msg = f"out must be contiguous and of shape {shape}"
            raise UsageError(msg)
        terms = _terms(parameters, self._grid)
        if out is None:
            out = torch.empty(shape, dtype=dtype, device=terms.s2.device)
        if out.dtype == torch.float32 and out.device.type == "cpu":
            compiled.oscillate(
                terms.phase[:, :, 0].numpy() / (2 * np.pi),
                terms.s2[:, 0].numpy(),
                terms.swing[:, 0].numpy() / (2 * np.pi),
                terms.envelope[:, :, 0].numpy(),
                out.numpy(),
            )
        else:
            values = _values(terms)
            for start in range(0, out.shape[2], values.shape[2]):
                out[:, :, start : start + values.shape[2]] = values
        return out


def ctf_on_polar_grid(
    parameters: CtfParameters,
    radius_shells: np.ndarray | torch.Tensor,
    theta_shell: np.ndarray | torch.Tensor,
    box_size_A: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Contrast transfer functions on a polar grid.

    Parameters
    ----------
    parameters
        Of n_images images.
    radius_shells, theta_shell, box_size_A, device
        As for `PolarCtf`.
    dtype
        Of the result.

    Returns
    -------
    torch.Tensor
        Shape (n_images, n_shells, n_inplanes).
    """
    grid = PolarCtf(radius_shells, theta_shell, box_size_A, device)
    return grid(parameters, dtype=dtype)
