"""Endpoint: one model at one place, asked once. What retries, limits and budgets are wrapped around."""

from typing import Final, Protocol

from core.autointerp.language_model import Ask, Reply

OPENROUTER: Final = "https://openrouter.ai/api/v1"
"""Where a model outside is, unless somebody says otherwise."""


class Endpoint(Protocol):
    """Asks once."""

    @property
    def name(self) -> str:
        """Which model, as it is asked for."""
        ...

    @property
    def place(self) -> str:
        """Where it is: the same name elsewhere may be another model. Part of cache keys; has no secret."""
        ...

    async def attempt(self, question: Ask, timeout_s: float) -> Reply:
        """One answer.

        Raises:
            AttemptFailed: There is none; it says whether another attempt may help.
            RayscopeError: The question can not be asked at all.
        """
        ...
