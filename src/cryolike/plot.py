"""Pictures. Every function returns a figure and touches no global state."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cryolike.descriptor import ImageDescriptor
from cryolike.physics.inverse_polar import pixels_of_polar_images
from cryolike.physics.views import ViewingDirections
from cryolike.units import deg_from_rad

__all__ = [
    "StackPictures",
    "TemplatePictures",
    "figure_of_pixels",
    "figure_of_polar_images",
    "figure_of_power_spectrum",
    "png_bytes",
    "shell_power",
]

_N_COLUMNS = 4
_WIDTH_INCH = 7
_DPI = 100


class StackPictures:
    """What the plots of a stack show, collected batch by batch."""

    N_SHOWN = 16
    """Images that are shown."""

    def __init__(self) -> None:
        self._pixels: list[torch.Tensor] = []
        self._polar_images: list[torch.Tensor] = []
        self._powers: list[tuple[int, np.ndarray]] = []
        self._n_images = 0

    def add(self, pixels: torch.Tensor, polar_images: torch.Tensor) -> None:
        """Take in images; what is shown of them is copied.

        Parameters
        ----------
        pixels
            Normalised, (n, N, N).
        polar_images
            (n, n_shells, n_inplanes).
        """
        n_wanted = max(0, self.N_SHOWN - self._n_images)
        self._pixels.append(pixels[:n_wanted].clone())
        self._polar_images.append(polar_images[:n_wanted].clone())
        self._n_images += len(polar_images)
        if len(polar_images):
            self._powers.append((len(polar_images), shell_power(polar_images)))

    def draw(
        self, descriptor: ImageDescriptor, labels: Sequence[str]
    ) -> tuple[bytes, bytes, bytes]:
        """Draw the stack.

        Parameters
        ----------
        descriptor
            Of the images.
        labels
            Of the images shown.

        Returns
        -------
        tuple of bytes
            PNG files: pixels, polar images, power spectrum.
        """
        pixels, polar_images = torch.cat(self._pixels), torch.cat(self._polar_images)
        power = np.sum([n * power for n, power in self._powers], axis=0) / self._n_images
        return (
            png_bytes(figure_of_pixels(pixels.numpy(), labels, descriptor)),
            png_bytes(figure_of_polar_images(polar_images, labels, descriptor)),
            png_bytes(figure_of_power_spectrum(power, descriptor)),
        )


class TemplatePictures:
    """What the plots of a structure's templates show, collected batch by batch."""

    N_SHOWN = 16
    """Templates that are shown."""

    def __init__(self) -> None:
        self._shown: list[torch.Tensor] = []
        self._powers: list[np.ndarray] = []
        self._n_views = 0

    def add(self, templates: torch.Tensor) -> None:
        """Take in templates, (n, n_shells, n_inplanes); what is shown of them is copied."""
        self._shown.append(templates[: max(0, self.N_SHOWN - self._n_views)].clone())
        self._powers.append(len(templates) * shell_power(templates))
        self._n_views += len(templates)

    def draw(
        self, descriptor: ImageDescriptor, views: ViewingDirections, name: str
    ) -> tuple[bytes, bytes, bytes]:
        """Draw the templates.

        Parameters
        ----------
        descriptor
            Of the templates.
        views
            Of all templates.
        name
            Of the structure.

        Returns
        -------
        tuple of bytes
            PNG files: polar images, pixels, power spectrum.
        """
        shown = torch.cat(self._shown)
        angles_deg = deg_from_rad(views.euler_rad[: len(shown), :2])
        labels = [f"rot {rot:.0f}° tilt {tilt:.0f}°" for rot, tilt in angles_deg]
        pixels = pixels_of_polar_images(shown, descriptor)
        title, of_power = f"Templates of {name}", f"Power spectrum of templates of {name}"
        spectrum = np.sum(self._powers, axis=0) / self._n_views
        return (
            png_bytes(figure_of_polar_images(shown, labels, descriptor, title)),
            png_bytes(figure_of_pixels(pixels, labels, descriptor, title)),
            png_bytes(figure_of_power_spectrum(spectrum, descriptor, of_power)),
        )


def png_bytes(figure: Figure) -> bytes:
    """Render a figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def figure_of_pixels(
    images: np.ndarray,
    labels: Sequence[str],
    descriptor: ImageDescriptor,
    title: str = "Particle images, normalised",
) -> Figure:
    """Images side by side, x to the right and y downwards as they lie in the file.

    Parameters
    ----------
    images
        (n, N, N).
    labels
        One an image.
    descriptor
        For the scale.
    title
        First words of the title.

    Returns
    -------
    matplotlib.figure.Figure
    """
    low, high = np.percentile(images, [0.5, 99.5])
    figure, axes = _gallery(images, labels, float(low), float(high), "gray")
    side = descriptor.cartesian_grid
    axes.set_title(
        f"{title}: {side.side_px} pixels, box {side.box_size_A:.4g} Å\nx → (fast axis), y ↓",
        fontsize=10,
    )
    return figure


def figure_of_polar_images(
    polar_images: torch.Tensor,
    labels: Sequence[str],
    descriptor: ImageDescriptor,
    title: str = "Polar Fourier images",
) -> Figure:
    """Moduli of polar images: angle θ from 0 to 360° to the right, frequency upwards.

    Parameters
    ----------
    polar_images
        Complex, (n, n_shells, n_inplanes).
    labels
        One an image.
    descriptor
        For the scale.
    title
        First words of the title.

    Returns
    -------
    matplotlib.figure.Figure
    """
    moduli = np.log10(polar_images.abs().numpy().astype(np.float64) + 1e-12)
    low, high = np.percentile(moduli, [2, 99.8])
    figure, axes = _gallery(moduli[:, ::-1], labels, float(low), float(high), "magma")
    axes.set_title(
        f"{title}, log₁₀ |F|: θ → from 0 to 360°,\n"
        f"spatial frequency ↑ from 0 to 1/({descriptor.resolution_A:.3g} Å)",
        fontsize=10,
    )
    return figure


def figure_of_power_spectrum(
    power: np.ndarray, descriptor: ImageDescriptor, title: str = "Power spectrum of the stack"
) -> Figure:
    """Mean of |F|² on each shell against spatial frequency.

    Parameters
    ----------
    power
        (n_shells,), see `shell_power`.
    descriptor
        For the scale.
    title
        First words of the title.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(6, 3.6))
    axes = figure.add_axes((0.17, 0.15, 0.79, 0.74))
    radii = descriptor.polar_grid.radius_shells
    frequency = 2 * radii / descriptor.cartesian_grid.box_size_A
    axes.semilogy(frequency, power)
    axes.set_xlim(0, float(frequency[-1]))
    axes.set_xlabel("spatial frequency (1/Å)")
    axes.set_ylabel("mean of |F|² on the shell")
    axes.grid(alpha=0.3)
    axes.set_title(f"{title}, to {descriptor.resolution_A:.3g} Å", fontsize=10)
    return figure


def shell_power(polar_images: torch.Tensor) -> np.ndarray:
    """Mean of |F|² over images and angles, for each shell.

    Parameters
    ----------
    polar_images
        Complex, (n_images, n_shells, n_inplanes).

    Returns
    -------
    ndarray
        float64, (n_shells,).
    """
    n_points = polar_images.shape[0] * polar_images.shape[2]
    norms = torch.linalg.vector_norm(torch.view_as_real(polar_images).flatten(-2), dim=-1)
    return np.asarray(norms.to(torch.float64).square().sum(dim=0).numpy() / n_points)


def _gallery(
    images: np.ndarray, labels: Sequence[str], low: float, high: float, colours: str
) -> tuple[Figure, Axes]:
    """Tile images into one picture: one call to draw is far quicker than an axes for each."""
    n_images, height, width = images.shape
    n_rows = -(-n_images // _N_COLUMNS)
    gap = max(2, width // 32)
    sheet = np.full((n_rows * (height + gap) - gap, _N_COLUMNS * (width + gap) - gap), np.nan)
    aspect = sheet.shape[0] / sheet.shape[1]
    # Places are set by hand: a layout engine would draw everything twice
    height_inch = _WIDTH_INCH * aspect + 1.1
    figure = Figure(figsize=(_WIDTH_INCH, height_inch))
    axes = figure.add_axes(
        (0.01, 0.55 / height_inch, 0.98, 0.98 * _WIDTH_INCH * aspect / height_inch)
    )
    scale = figure.add_axes((0.25, 0.4 / height_inch, 0.5, 0.08 / height_inch))
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        top, left = (i // _N_COLUMNS) * (height + gap), (i % _N_COLUMNS) * (width + gap)
        sheet[top : top + height, left : left + width] = image
        axes.text(
            left + 0.03 * width,
            top + 0.05 * height,
            label,
            fontsize=7,
            color="white",
            va="top",
            bbox={"facecolor": "black", "alpha": 0.5, "pad": 1, "edgecolor": "none"},
        )
    shown = axes.imshow(sheet, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    figure.colorbar(shown, cax=scale, orientation="horizontal")
    axes.set_axis_off()
    return figure, axes
