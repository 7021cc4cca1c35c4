"""``cryolike describe``: make, or show, an image descriptor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryolike.cli.console import errors_become_exit_codes, say
from cryolike.descriptor import ImageDescriptor
from cryolike.errors import UsageError

_TEMPLATES = "Settings of templates (carried along)"


@errors_become_exit_codes
def describe(
    file: Annotated[
        Path | None, typer.Argument(help="Descriptor to show; nothing else is needed then.")
    ] = None,
    n_pixels: Annotated[
        int | None, typer.Option("--n-pixels", "-n", help="Box in pixels, after downsampling.")
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option("--pixel-size", "-s", help="Å, after downsampling.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write, such as params.npz.")
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="single|double", help="Of the images written.")
    ] = "single",
    resolution_factor: Annotated[
        float, typer.Option(help="Largest frequency as a fraction of Nyquist.")
    ] = 1.0,
    n_inplanes: Annotated[
        int | None, typer.Option(help="In-plane angles; twice the box without it.")
    ] = None,
    viewing_distance: Annotated[
        float | None,
        typer.Option(help="Spacing of viewing directions.", rich_help_panel=_TEMPLATES),
    ] = None,
    atom_radii: Annotated[
        float | None,
        typer.Option(help="One radius in Å for all atoms.", rich_help_panel=_TEMPLATES),
    ] = None,
    atom_selection: Annotated[
        str, typer.Option(help="Atoms that count.", rich_help_panel=_TEMPLATES)
    ] = "name CA",
    residue_model: Annotated[
        bool,
        typer.Option(
            "--residue-model/--no-residue-model",
            help="One bead per residue, each with its own radius.",
            rich_help_panel=_TEMPLATES,
        ),
    ] = True,
    atom_shape: Annotated[
        str,
        typer.Option(
            metavar="gaussian|hard-sphere", help="Of each atom.", rich_help_panel=_TEMPLATES
        ),
    ] = "gaussian",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Make an image descriptor: the grids that images are converted to, kept in a file.

    Examples
    --------
        cryolike describe --n-pixels 128 --pixel-size 1.5 -o params.npz

        cryolike describe params.npz
    """
    if file is not None:
        say(ImageDescriptor.load(file).describe())
        return
    if n_pixels is None or pixel_size is None:
        raise UsageError("Give --n-pixels and --pixel-size, or a descriptor file to show.")
    descriptor = ImageDescriptor.from_individual_values(
        n_pixels,
        pixel_size,
        precision,
        resolution_factor,
        viewing_distance,
        n_inplanes,
        atom_radii,
        atom_selection,
        residue_model,
        atom_shape,
    )
    say(descriptor.describe())
    if output is None:
        say("nothing was written: give --output to keep it")
    else:
        descriptor.save(output, overwrite=overwrite)
        say(f"written to {output}", style="green")
