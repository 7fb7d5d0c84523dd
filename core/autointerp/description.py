"""What an application for automatic interpretability says of itself to those who ask it."""

from dataclasses import dataclass

from core.autointerp.providers.endpoint import OPENROUTER


@dataclass(frozen=True, slots=True)
class AutointerpDescription:
    """What there is.

    Attributes:
        base_url: Where a model outside is, unless a request says otherwise.
        own_keys: Addresses that it has a key of its own for.
        embedding_model: The model that embeds; None: there is none.
        local_models: Models of the cluster that may be asked; None: every one.
    """

    base_url: str = OPENROUTER
    own_keys: tuple[str, ...] = ()
    embedding_model: str | None = None
    local_models: tuple[str, ...] | None = None

    def has_key_for(self, base_url: str | None) -> bool:
        """Whether it has a key of its own for an address; None is where models are unless somebody says otherwise."""
        return (base_url or self.base_url).rstrip("/") in self.own_keys
