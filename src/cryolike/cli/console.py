"""What commands share: how they speak, and how errors become exit codes."""

from __future__ import annotations

import functools
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console

from cryolike.errors import CryoLikeError, CryoLikeWarning, UsageError

__all__ = [
    "BAD_DATA",
    "BAD_USAGE",
    "errors_become_exit_codes",
    "fail",
    "say",
    "say_json",
    "warn",
    "warnings_on_the_console",
]

BAD_DATA, BAD_USAGE, INTERRUPTED = 1, 2, 130

_OUT_OF_MEMORY = "out of memory. Choose a smaller --batch-size, or a smaller --memory to score."

_out = Console(soft_wrap=True, highlight=False, emoji=False)
_err = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters other than tab and line end."""

P = ParamSpec("P")
R = TypeVar("R")


def say(text: str, style: str = "") -> None:
    """Print to standard output."""
    _out.print(_printable(text), style=style or None, markup=False)


def say_json(content: Any) -> None:
    """Print JSON to standard output, for machines."""
    typer.echo(json.dumps(content, indent=2))


def warn(messages: Iterable[str], label: str = "warning") -> None:
    """Print warnings or notes to standard error."""
    for message in messages:
        _err.print(f"{label}: {_printable(message)}", style="yellow", markup=False)


@contextmanager
def warnings_on_the_console() -> Iterator[list[str]]:
    """Print warnings of the library, each once, like all others while the block runs.

    Yields
    ------
    list of str
        What has been told.
    """
    told: list[str] = []

    def tell(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, CryoLikeWarning) and str(message) not in told:
            told.append(str(message))
            warn([str(message)])

    with warnings.catch_warnings():
        warnings.simplefilter("always", CryoLikeWarning)
        warnings.showwarning = tell
        yield told


def fail(message: str, code: int = BAD_DATA) -> NoReturn:
    """Print an error and end the program."""
    _err.print(f"error: {_printable(message)}", style="red", markup=False)
    raise typer.Exit(code)


def errors_become_exit_codes(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command: bad data ends it with 1, bad usage with 2, and never with a traceback."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except UsageError as error:
            fail(str(error), BAD_USAGE)
        except CryoLikeError as error:
            fail(str(error))
        except BrokenPipeError:
            # The reader of our output has gone, as with `| head`
            os._exit(BAD_DATA)
        except OSError as error:
            fail(f"{error.filename or 'input or output'}: {error.strerror or error}")
        except MemoryError:
            fail(_OUT_OF_MEMORY)
        except RuntimeError as error:
            # PyTorch has no exception of its own for this on a processor
            if "not enough memory" not in str(error):
                raise
            fail(_OUT_OF_MEMORY)
        except KeyboardInterrupt:
            fail("interrupted.", INTERRUPTED)

    return wrapped


def _printable(text: str) -> str:
    """Text with names that are not UTF-8, or would command the terminal, made printable."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return _CONTROL.sub(lambda character: f"\\x{ord(character[0]):02x}", text)
