"""``cryolike templates``: projections of structures, one for each viewing direction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from cryolike.cli import options as opt
from cryolike.cli.console import errors_become_exit_codes, say, say_json, warnings_on_the_console
from cryolike.descriptor import ImageDescriptor
from cryolike.errors import counted
from cryolike.io.structure import AtomSettings
from cryolike.physics.views import ViewingDirections
from cryolike.progress import progress_bar
from cryolike.store.template_files import TemplateFolder
from cryolike.templates import write_templates

AtomModel = Literal["beads", "electron"]

_STRUCTURES, _RUN = "Structures", "Running"


@errors_become_exit_codes
def templates(
    structures: Annotated[
        list[Path],
        typer.Argument(
            help="Maps (.mrc, .map) and atomic models (.pdb, .cif), also gzipped. Two of the same "
            "name become NAME and NAME_1."
        ),
    ],
    params: Annotated[
        Path,
        typer.Option(
            "--params",
            "-p",
            help="Image descriptor of the particle images, made by `cryolike describe`. It says on "
            "which grid templates are, how far apart the viewing directions, and which atoms of "
            "a model count.",
        ),
    ],
    output: opt.Output,
    atoms: Annotated[
        str,
        typer.Option(
            metavar="beads|electron",
            callback=opt.one_of(AtomModel),
            help="What scatters in an atomic model: one bead for each selected atom, with the "
            "radius that the descriptor says; or every selected atom with its element's electron "
            "scattering factors, B-factor and occupancy.",
            rich_help_panel=_STRUCTURES,
        ),
    ] = "beads",
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Stop at a residue whose radius is not known, instead of taking the mean of all.",
            rich_help_panel=_STRUCTURES,
        ),
    ] = False,
    memory: Annotated[
        str,
        typer.Option(metavar="SIZE", help="What the work may use: 500M, 2G.", rich_help_panel=_RUN),
    ] = "2G",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace templates of an earlier run.", rich_help_panel=_RUN
        ),
    ] = False,
    plots: Annotated[
        bool,
        typer.Option("--plots/--no-plots", help="Draw each structure.", rich_help_panel=_RUN),
    ] = True,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Make templates: projections of structures in all viewing directions, as polar images.

    They are what particle images are compared with. An atomic model is centred on the mean of its
    selected atoms; a map's centre is its middle voxel. All structures are checked before the first
    template is made.

    OUTPUT gets a file for each structure, templates_fourier_NAME.pt (views × shells × angles), with
    what it is of in templates_fourier_NAME.npz; template_file_list.npy; and plots/.

    Examples
    --------
        cryolike describe --n-pixels 128 --pixel-size 1.5 -o params.npz

        cryolike templates open.pdb closed.pdb --params params.npz -o templates/

        cryolike templates emd_1234.map.gz model.cif --atoms electron -p params.npz -o templates/
    """
    TemplateFolder(output, overwrite=overwrite).refuse_existing()
    descriptor = ImageDescriptor.load(params)
    views = ViewingDirections.of_spacing(descriptor.viewing_distance)
    settings = AtomSettings.from_descriptor(
        descriptor, atom_model=cast("AtomModel", atoms), strict=strict
    )
    n_views = counted(len(views), "viewing direction")
    if not json:
        say(f"{counted(len(structures), 'structure')}, {n_views} each")
        say(descriptor.describe_grids())
    shown = not (quiet or json)
    with (
        warnings_on_the_console(),
        progress_bar("templates", visible=shown, unit="views") as progress,
    ):
        paths = write_templates(
            structures,
            descriptor,
            output,
            settings=settings,
            views=views,
            plots=plots,
            overwrite=overwrite,
            memory_bytes=opt.bytes_of(memory),
            progress=progress,
        )
    if json:
        say_json({"n_views": len(views), "files": [str(path) for path in paths]})
        return
    for path in paths:
        say(f"written to {path}", style="green")
