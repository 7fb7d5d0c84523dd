"""What all commands have in common: where they speak, how they refuse, and lists as flags."""

import json
from typing import Final, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console

from core.errors import RayscopeError

CONSOLE: Final = Console(stderr=True)


def words(values: list[str] | None) -> list[str]:
    """Lists as flags and environment variables write them: repeated, separated by spaces, or as a JSON list."""
    joined = " ".join(values or [])  # an environment variable arrives split at its spaces
    try:
        parsed = json.loads(joined)
    except ValueError:
        return joined.split()
    return [str(value) for value in parsed] if isinstance(parsed, list) else joined.split()


def say(text: str, style: str | None = None) -> None:
    """Prints a line as it is."""
    CONSOLE.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def refuse(error: RayscopeError | ValidationError) -> NoReturn:
    """Says what is wrong and ends the command."""
    say(str(error), style="red")
    if isinstance(error, RayscopeError) and error.hint:
        say(error.hint)
    raise typer.Exit(1) from None
