"""The casing of keys in bodies whose fields no model lists: parameters of explainers and scorers, rows of results."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic.alias_generators import to_snake


def spelt(value: Any, spell: Callable[[str], str]) -> Any:
    """A JSON value with all its keys spelt in a way."""
    if isinstance(value, Mapping):
        return {spell(str(name)): spelt(inner, spell) for name, inner in value.items()}
    return [spelt(inner, spell) for inner in value] if isinstance(value, (list, tuple)) else value


def parameters_of(sent: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by their own names, whichever casing they were sent in."""
    return {to_snake(name): spelt(value, to_snake) for name, value in sent.items()}
