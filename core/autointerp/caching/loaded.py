"""What works on a caching job: a model with its SAEs, loaded when first needed, that does any of the job's pieces.

One of these does a job in one process; on a cluster every worker has one. Which pieces there are, and what becomes of
the units that come back, is the driver's business.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from core.autointerp.caching.corpus import TokenPart
from core.autointerp.caching.logits import token_effects
from core.autointerp.caching.manifest import Unit
from core.autointerp.caching.recording import Recorder
from core.autointerp.caching.specification import CachingSpec
from core.autointerp.caching.stages import distil_range, record_part
from core.catalogue.catalogue import find_model, weights_location
from core.catalogue.sources import Source
from core.engine.model import EagerModel
from core.prompts import PromptTokenizer
from core.saes.encoder import LoadedSae
from core.saes.loading import load_sae


class Loaded:
    """The device's model and SAEs. All methods run on the thread that owns the device.

    Args:
        spec: The job.
        sources: Its sources.
    """

    def __init__(self, spec: CachingSpec, sources: Sequence[Source]) -> None:
        self._spec = spec
        self._sources = {source.id: source for source in sources}
        self._saes: dict[str, LoadedSae] = {}

    @cached_property
    def tokenizer(self) -> PromptTokenizer:
        """The model's tokenizer."""
        return PromptTokenizer.load(weights_location(find_model(self._spec.model).weights))

    @cached_property
    def model(self) -> EagerModel:
        """The model."""
        weights = weights_location(find_model(self._spec.model).weights)
        return EagerModel.load(weights, device=self._spec.device, dtype=self._spec.dtype)

    def sae(self, source: str) -> LoadedSae:
        """A source's SAE."""
        loaded = self._saes.get(source)
        if loaded is None:
            loaded = self._saes[source] = load_sae(self._sources[source], dtype=self._spec.sae_dtype)
            loaded.sae.to(self._spec.device)
        return loaded

    def prepare(self) -> None:
        """Loads all that recording needs, which else the first part would wait for."""
        _ = self._recorder

    def record(self, part: TokenPart) -> Unit:
        """Records a part for all sources.

        Raises:
            TooLarge: More activations pass the threshold than may be kept.
            InvalidRequest: The tokens are not ones that the model can read.
        """
        return record_part(self._recorder, part, Path(self._spec.folder))

    def distil(self, parts: Iterable[Unit], source: str, latents: range) -> Unit:
        """Distils a range of latents of a source from the records of all parts."""
        effects = token_effects(self.model, self.sae(source), latents.start, latents.stop, self._spec.n_effects)
        return distil_range(
            Path(self._spec.folder),
            parts,
            source,
            latents,
            context_tokens=self._spec.windows.context_tokens,
            shape=self._spec.reservoirs,
            effects=effects,
        )

    @cached_property
    def _recorder(self) -> Recorder:
        bos = self.tokenizer.bos_id
        return Recorder(
            self.model,
            [self.sae(source) for source in self._sources],
            threshold=self._spec.threshold,
            silent_tokens=() if bos is None else (bos,),
            limits=self._spec.limits,
        )
