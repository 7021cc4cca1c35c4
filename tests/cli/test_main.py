"""The program as a whole: help, versions, exit codes, and what a terminal really sees."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cryolike.cli.main import app
from cryolike.simulate import write_relion_set
from cryolike.store import open_stacks

Run = Callable[..., Any]

COMMANDS = (
    ("inspect",),
    ("describe",),
    ("convert", "star"),
    ("convert", "cryosparc"),
    ("convert", "job"),
    ("convert", "paired"),
    ("verify",),
    ("demo",),
)


def program(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the program as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cryolike", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def words(text: str) -> str:
    """Text without the line breaks and frames of the terminal."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def examples_in_help() -> Iterator[str]:
    """Command lines that the help of all commands gives as examples."""
    root: Any = typer.main.get_command(app)
    commands = [*root.commands.values(), *root.commands["convert"].commands.values()]
    for command in commands:
        for line in (command.help or "").splitlines():
            if line.strip().startswith("cryolike "):
                yield line.strip()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command_shows_how_to_call_it(run: Run, command: tuple[str, ...]) -> None:
    """Help ends well, has an example of the command itself, and goes to standard output."""
    for flag in ("--help", "-h"):
        outcome = run(*command, flag)
        assert outcome.code == 0
        assert outcome.err == ""
        shown = words(outcome.out)
        assert shown.startswith(f"Usage: cryolike {' '.join(command)}")
        assert re.search(rf"Examples?:? .*cryolike {' '.join(command)} \S", shown)


@pytest.mark.parametrize("example", list(examples_in_help()))
def test_examples_in_the_help_are_valid(example: str) -> None:
    """Every command line that the help gives has known commands and options, and all it needs."""
    _, *arguments = shlex.split(example)
    command: Any = typer.main.get_command(app)
    name = "cryolike"
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    with command.make_context(name, arguments) as context:
        assert context.params


def test_help_names_every_command_and_the_exit_codes(run: Run) -> None:
    """The first help lists the commands, where to begin, and what exit codes mean."""
    shown = words(run("--help").out)
    for command in ("inspect", "describe", "convert", "verify", "demo"):
        assert f" {command} " in shown
    assert "cryolike inspect particles.star" in shown
    assert "Exit codes: 0 good, 1 bad data, 2 bad usage" in shown


@pytest.mark.parametrize("command", [(), ("convert",)], ids=["cryolike", "convert"])
def test_nothing_given_shows_help(run: Run, command: tuple[str, ...]) -> None:
    """Without arguments the program says what it can do."""
    outcome = run(*command)
    assert "Usage: cryolike" in words(outcome.out + outcome.err)
    assert outcome.code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("inspect",),
        ("inspect", "a.star", "--nonsense"),
        ("convert", "star", "a.star"),
        ("convert", "star", "a.star", "-o", "out", "--batch-size", "0"),
        ("convert", "star", "a.star", "-o", "out", "--random", "some"),
        ("convert", "job", "P1", "-o", "out"),
        ("verify", "out", "--sample", "-1"),
        ("demo", "--images", "0"),
    ],
    ids=" ".join,
)
def test_bad_usage_ends_with_2(run: Run, arguments: tuple[str, ...]) -> None:
    """Unknown, missing and impossible arguments are told on standard error, with exit code 2."""
    outcome = run(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Usage: cryolike" in outcome.err


def test_module_runs_as_the_program(tmp_path: Path) -> None:
    """`python -m cryolike` is the program, and gives the version of the package."""
    done = program("--version", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == f"cryolike {version('cryolike')}\n"


def test_bad_data_ends_with_1_and_no_traceback(star_file: Path, tmp_path: Path) -> None:
    """A process told to convert a set without its stacks ends with 1 and the list of them."""
    for stack in star_file.parent.rglob("*.mrcs"):
        stack.unlink()
    done = program("convert", "star", star_file, "-o", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "3 of 3 files not found (30 of 30 rows)" in done.stderr
    assert "→" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_json_is_all_that_goes_to_standard_output(star_file: Path, tmp_path: Path) -> None:
    """A process that converts with --json prints one JSON value; the rest is on standard error."""
    done = program("convert", "star", star_file, "-o", "out", "--json", "--no-plots", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["n_images_out"] == 30


def wait_for_stack(folder: Path, process: subprocess.Popen[str]) -> None:
    """Return once the first complete stack is there."""
    deadline = time.monotonic() + 60
    while not any(folder.rglob("*.pt")):
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_interrupted_conversion_says_how_to_resume(tmp_path: Path) -> None:
    """Ctrl-C ends with 130 and the advice to resume; that then finishes the set."""
    star_file = write_relion_set(tmp_path / "set", n_images=50, n_pixels=16)
    options = ("-o", "out", "--batch-size", "10", "--quiet")
    command = ("convert", "star", star_file, *options)
    process = subprocess.Popen(
        [sys.executable, "-m", "cryolike", *map(str, command)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    wait_for_stack(tmp_path / "out", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "error: interrupted" in err
    assert "--resume" in err
    assert "Traceback" not in err
    resumed = program(*command, "--resume", "--json", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    report = json.loads(resumed.stdout)
    assert report["n_images_out"] == 50
    assert 0 < report["n_stacks_kept"] < report["n_stacks"] == 5
    assert open_stacks(tmp_path / "out").table["source_row"].tolist() == list(range(50))


def test_reader_that_goes_away_causes_no_traceback(star_file: Path, tmp_path: Path) -> None:
    """Output into a pipe that nobody reads, as with `| head`, ends without a traceback."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cryolike", "inspect", str(star_file)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.wait(timeout=60)
    process.stderr.close()
    assert "Traceback" not in err
    assert "BrokenPipeError" not in err


def test_demo_tells_what_it_did(run: Run, tmp_path: Path) -> None:
    """The demonstration reports each step, leaves its picture, and says what to try next."""
    outcome = run("demo", "-o", tmp_path / "demo", "--images", "30", "--box", "16", "--quiet")
    assert outcome.code == 0
    for words_of_step in (
        "simulated    30 particles in 3 stacks",
        "inspected    2 optics groups, 0 problems",
        "converted    30 of 30 images",
        "is complete and unchanged",
        "cryolike inspect particles.star",
    ):
        assert words_of_step in outcome.out
    assert (tmp_path / "demo" / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_demo_needs_an_empty_folder(run: Run, tmp_path: Path) -> None:
    """A folder that holds anything is left alone, with exit code 1."""
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    for options in ((), ("--overwrite",)):
        outcome = run("demo", "-o", tmp_path, "--images", "3", "--box", "16", *options)
        assert outcome.code == 1
        assert outcome.err.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
