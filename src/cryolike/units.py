"""Physical constants and the only conversions between units.

Inside the package lengths are in Å, angles in radians, voltages in kV, Cs in mm.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

__all__ = ["A_PER_MM", "A_PER_UM", "deg_from_rad", "electron_wavelength_A", "rad_from_deg"]

A_PER_MM = 1e7
A_PER_UM = 1e4

_PLANCK_J_S = 6.62607015e-34
_ELECTRON_MASS_KG = 9.1093837015e-31
_ELEMENTARY_CHARGE_C = 1.602176634e-19
_SPEED_OF_LIGHT_M_S = 299792458.0

T = TypeVar("T", float, np.ndarray)


def rad_from_deg(angle_deg: T) -> T:
    """Radians from degrees."""
    return angle_deg * (np.pi / 180.0)


def deg_from_rad(angle_rad: T) -> T:
    """Degrees from radians."""
    return angle_rad * (180.0 / np.pi)


def electron_wavelength_A(voltage_kV: T) -> T:
    """Relativistic de Broglie wavelength of the electron.

    λ = h / √(2 m e V (1 + e V / (2 m c²))), CODATA 2018 constants.

    Parameters
    ----------
    voltage_kV
        Acceleration voltage in kV.

    Returns
    -------
    float or ndarray
        Wavelength in Å (0.019687 at 300 kV).
    """
    energy_J = _ELEMENTARY_CHARGE_C * voltage_kV * 1e3
    rest_energy_J = _ELECTRON_MASS_KG * _SPEED_OF_LIGHT_M_S**2
    momentum_squared = 2 * _ELECTRON_MASS_KG * energy_J * (1 + energy_J / (2 * rest_energy_J))
    wavelength_A: T = _PLANCK_J_S / momentum_squared**0.5 * 1e10
    return wavelength_A
