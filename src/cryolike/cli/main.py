"""The program ``cryolike``."""

from __future__ import annotations

import logging
import signal
from importlib.metadata import version
from types import FrameType
from typing import Annotated

import typer

from cryolike.cli import convert, demo, describe, inspect, score, templates, verify

__all__ = ["app", "main"]

app = typer.Typer(
    name="cryolike",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    help="Particle sets from RELION and cryoSPARC as polar Fourier images, each with its own CTF "
    "and the row it came from.\n\n"
    "Start with `cryolike inspect particles.star`, or see all of it on simulated data with "
    "`cryolike demo`. Exit codes: 0 good, 1 bad data, 2 bad usage, "
    "130 interrupted.",
)
app.command()(inspect.inspect)
app.command()(describe.describe)
app.add_typer(convert.app, name="convert")
app.command()(verify.verify)
app.command()(templates.templates)
app.command()(score.score)
app.command()(demo.demo)


def _show_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"cryolike {version('cryolike')}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log what is going on to standard error.")
    ] = False,
    _version: Annotated[
        bool | None,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version."),
    ] = None,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(name)s: %(message)s",
    )


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Stop in good order; a second Ctrl-C ends the program at once.

    That is as harmless as a kill, and better than an exception while another is dealt with.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


def main() -> None:
    """Run the program."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as where a script runs it with &
        signal.signal(signal.SIGINT, _interrupt)
    app()
