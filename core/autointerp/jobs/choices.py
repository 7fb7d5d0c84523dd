"""What a job is put together from: steps, the model that is asked, latents, examples and the cache they come from."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Literal

from core.autointerp.caching.corpus import Texts, WindowShape
from core.autointerp.caching.reservoirs import ReservoirShape
from core.autointerp.sampling import SamplerSettings
from core.autointerp.seeds import derive_seed
from core.autointerp.tasks import Provider
from core.errors import InvalidRequest

Sampler = Literal["rayscope", "delphi-legacy"]
Silent = Literal["random", "similar-features"]

_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CALLER: Final = re.compile(r"caller:[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Step:
    """One explainer or scorer.

    Attributes:
        type: Its name or alias in the registry; kept as its name.
        parameters: What differs from its defaults.
        label: Tells it from another of the same type; its type's name if nobody says.
    """

    type: str
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    label: str = ""

    def __post_init__(self) -> None:
        if self.label and not _LABEL.fullmatch(self.label):
            raise InvalidRequest(
                f"'{self.label[:80]}' can not be the label of a step.", "Use letters, digits, dots and dashes."
            )

    def named(self, type_name: str) -> "Step":
        """The same under its type's own name, with a label."""
        return Step(type_name, self.parameters, self.label or type_name)


@dataclass(frozen=True, slots=True)
class AskedModel:
    """Which language model is asked, by whose key.

    Attributes:
        model: Its name, as its provider has it.
        provider: `openrouter` for any address outside, `local` for a model of this cluster.
        base_url: The address outside; None: the provider's own.
        key: `configured` for the cluster's own key, `caller:<fingerprint>` for one that a caller brought; None for
            `local`. Never the key.
    """

    model: str
    provider: Provider = "openrouter"
    base_url: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if self.provider == "local" and (self.base_url is not None or self.key is not None):
            raise InvalidRequest("A model of this cluster has neither an address nor a key.", "Leave both out.")
        if self.key not in (None, "configured") and not _CALLER.fullmatch(self.key):
            raise InvalidRequest("A job keeps which key is meant, never a key.", "Send keys in the header.")

    @property
    def needs_caller(self) -> bool:
        """Whether a caller has to bring the key."""
        return self.key is not None and self.key != "configured"


@dataclass(frozen=True, slots=True)
class LatentChoice:
    """Which latents of each source.

    Attributes:
        kind: `all`; a `range` from `start` to before `stop`; the `list` in `indices`; `random`: `count` of all.
        start: First latent of a range.
        stop: The one after its last; None: to the end.
        indices: A list.
        count: Latents at most, of each source; None: as many as there are.
        seed: Gives another draw.
        alive_only: Whether to leave out latents that never fire in the cache. Those that are left in are skipped when
            their turn comes, with the reason.
    """

    kind: Literal["all", "range", "list", "random"] = "all"
    start: int = 0
    stop: int | None = None
    indices: tuple[int, ...] = ()
    count: int | None = None
    seed: int = 0
    alive_only: bool = True

    def __post_init__(self) -> None:
        if self.kind == "list" and not self.indices:
            raise InvalidRequest("The list of latents is empty.", "Name at least one in `indices`.")
        if self.kind == "random" and self.count is None:
            raise InvalidRequest("It is not said how many random latents are wanted.", "Set `count`.")
        if self.start < 0 or (self.count is not None and self.count < 1) or any(index < 0 for index in self.indices):
            raise InvalidRequest("Latents are counted from 0, and a count from 1.")
        if self.stop is not None and self.stop <= self.start:
            raise InvalidRequest(f"The range from {self.start} to {self.stop} is empty.")

    def of(self, source: str, n_latents: int, alive: Collection[int]) -> list[int]:
        """The latents of a source, ascending; the random ones too.

        Args:
            source: Its id, which random choices depend on.
            n_latents: How many it has.
            alive: Those that fire.

        Raises:
            InvalidRequest: The list names a latent that it has not.
        """
        match self.kind:
            case "list":
                wrong = next((index for index in self.indices if index >= n_latents), None)
                if wrong is not None:
                    raise InvalidRequest(f"{source} has no latent {wrong}.", f"It has 0 to {n_latents - 1}.")
                found = sorted(set(self.indices))
            case "range":
                found = list(range(self.start, min(n_latents, self.stop or n_latents)))
            case "all" | "random":
                found = list(range(n_latents))
        if self.alive_only:
            firing = set(alive)
            found = [index for index in found if index in firing]
        if self.count is None or len(found) <= self.count:
            return found
        if self.kind == "random":
            return sorted(Random(derive_seed("latents", source, self.seed)).sample(found, self.count))
        return found[: self.count]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a latent's examples are chosen.

    Attributes:
        settings: How many of which kind.
        sampler: Ours, or delphi's own choice for comparing numbers.
        silent: Silent examples at random, or those where latents with similar decoder rows fire.
    """

    settings: SamplerSettings = field(default_factory=SamplerSettings)
    sampler: Sampler = "rayscope"
    silent: Silent = "random"


@dataclass(frozen=True, slots=True)
class CacheMaking:
    """How a cache is made that is not there yet.

    Attributes:
        texts: The corpus.
        n_tokens: Tokens to read.
        windows: How texts are cut.
        reservoirs: What is remembered of each latent.
        set_folders: Source sets that lie in local folders.
        threshold: Activations above it are kept.
        latents_per_range: Latents distilled together.
        device: Torch device.
        dtype: Of the model's weights.
    """

    texts: Texts
    n_tokens: int
    windows: WindowShape = field(default_factory=WindowShape)
    reservoirs: ReservoirShape = field(default_factory=ReservoirShape)
    set_folders: Mapping[str, str] = field(default_factory=dict[str, str])
    threshold: float = 0.0
    latents_per_range: int = 2048
    device: str = "cpu"
    dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class CacheChoice:
    """Where examples come from.

    Attributes:
        name: Folder of the cache, below those that the jobs' host keeps.
        make: How to make it; None: it must be there.
    """

    name: str
    make: CacheMaking | None = None

    def __post_init__(self) -> None:
        if not _LABEL.fullmatch(self.name):
            raise InvalidRequest(
                f"'{self.name[:80]}' can not be the name of a cache.", "Use letters, digits, dots and dashes."
            )
