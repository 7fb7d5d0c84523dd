"""Guards for the places where we hold on to vLLM's insides, which may change with any of its releases.

A seam that moved must fail the start of the engine. Found later it would be a model that quietly is not steered.
"""

import inspect
from collections.abc import Callable
from typing import Any


def require_parameters(function: Callable[..., Any], *names: str) -> None:
    """Insists that a function still takes exactly these parameters.

    Raises:
        RuntimeError: It does not.
    """
    found = tuple(inspect.signature(function).parameters)
    if found != names:
        raise RuntimeError(
            f"vLLM's {function.__qualname__} takes {found}, expected {names}: "
            "this vLLM is not the one that steering was tested with."
        )


def require_attributes(owner: Any, *names: str) -> None:
    """Insists that an object still has these attributes.

    Raises:
        RuntimeError: One is missing.
    """
    missing = [name for name in names if not hasattr(owner, name)]
    if missing:
        raise RuntimeError(
            f"vLLM's {type(owner).__name__} has no {', '.join(missing)}: "
            "this vLLM is not the one that steering was tested with."
        )
