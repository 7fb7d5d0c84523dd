"""What callers see of a rate gate, whether it is in this process (`rate`) or where a whole cluster asks (`turnstile`).

async with gate.admit(tokens, owner) as turn: ...    # waits; counts as in flight until the body ends
"""

from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Turn(Protocol):
    """One call in flight; says at most once how it ended."""

    def succeeded(self, tokens: int) -> None:
        """It was answered, and took so many tokens."""
        ...

    def throttled(self, retry_after_s: float | None) -> None:
        """The provider had too many requests."""
        ...

    def unused(self) -> None:
        """It was not made."""
        ...


class Gate(Protocol):
    """Lets calls through one by one."""

    def admit(self, tokens: int, owner: str = "") -> AbstractAsyncContextManager[Turn]:
        """Waits for the turn of a call, and counts it as in flight while the body runs.

        Args:
            tokens: What it will read and write, estimated.
            owner: Whose it is; owners take turns.
        """
        ...
