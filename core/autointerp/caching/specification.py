"""What a caching job is asked for: which sources over which texts, and how much is kept.

The same specification serves a job in one process (`job`) and one on a cluster (`deployments.autointerp.caching`), and
the two come to the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from core.autointerp.caching.corpus import Texts, WindowShape
from core.autointerp.caching.recording import RecordingLimits
from core.autointerp.caching.reservoirs import ReservoirShape
from core.catalogue.catalogue import SourceFilter, find_model
from core.catalogue.sources import Source
from core.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class CachingSpec:
    """What is to be cached, and where.

    Attributes:
        model: Any name of the model.
        source_sets: Its source sets.
        texts: The corpus.
        n_tokens: Tokens to read, BOS tokens included; a shorter corpus is read to its end.
        folder: Where the cache goes; it need not exist.
        windows: How texts are cut.
        reservoirs: What is remembered of each latent.
        wanted: Which sources of the sets.
        set_folders: Sets that lie in local folders.
        threshold: Activations above it are kept, at least 0.
        n_effects: Tokens kept of each latent's strongest and weakest logits.
        latents_per_range: Latents distilled together, which bounds memory then.
        device: Torch device.
        dtype: Of the model's weights; "auto": as they are stored.
        sae_dtype: Of the SAEs' weights.
        limits: What bounds memory while recording.
    """

    model: str
    source_sets: tuple[str, ...]
    texts: Texts
    n_tokens: int
    folder: str
    windows: WindowShape = field(default_factory=WindowShape)
    reservoirs: ReservoirShape = field(default_factory=ReservoirShape)
    wanted: SourceFilter = field(default_factory=SourceFilter)
    set_folders: Mapping[str, str] = field(default_factory=dict[str, str])
    threshold: float = 0.0
    n_effects: int = 10
    latents_per_range: int = 2048
    device: str = "cpu"
    dtype: str = "auto"
    sae_dtype: str = "float32"
    limits: RecordingLimits = field(default_factory=RecordingLimits)

    def __post_init__(self) -> None:
        self.reservoirs.windows_of(self.windows.context_tokens)
        if not self.threshold >= 0:
            raise InvalidRequest(f"The threshold is {self.threshold}.", "Use 0 or a positive number.")
        if self.n_windows < 1:
            raise InvalidRequest(
                f"{self.n_tokens} tokens are less than one window of {self.windows.context_tokens}.",
                "Ask for more tokens or shorter windows.",
            )

    @property
    def n_windows(self) -> int:
        """Windows to read at most."""
        return self.n_tokens // self.windows.context_tokens


def described(spec: CachingSpec, sources: Sequence[Source]) -> dict[str, Any]:
    """What decides the bytes of a cache."""
    return {
        "model": find_model(spec.model).id,
        "sources": {
            source.id: {"hook_name": source.hook_name, "n_latents": source.d_sae, "layer": source.layer}
            for source in sources
        },
        "texts": {"kind": type(spec.texts).__name__, **asdict(spec.texts)},
        "n_tokens": spec.n_tokens,
        "windows": asdict(spec.windows),
        "reservoirs": asdict(spec.reservoirs),
        "threshold": spec.threshold,
        "n_effects": spec.n_effects,
        "latents_per_range": spec.latents_per_range,
        "dtype": spec.dtype,
        "sae_dtype": spec.sae_dtype,
    }
