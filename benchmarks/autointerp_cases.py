"""What is explained, scored and cached in `make bench-autointerp`: the demo's texts and some of its latents.

    python -m benchmarks.autointerp_cases FOLDER N_TOKENS N_LATENTS

    texts of the micro-world, once, as a file --ours: reads and tokenises it / delphi: is given its tokens--> a cache
    a cache of one layer --> latents with as many examples as delphi's defaults ask for --> the same for both sides

BOS is left out, as delphi's command does, so that both sides see and keep the same.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from core.autointerp.caching.corpus import DemoTexts, FileTexts, WindowShape, documents, token_parts
from core.autointerp.caching.exemplars import ExemplarReader, Exemplars
from core.autointerp.caching.job import cache_activations
from core.autointerp.caching.reservoirs import ReservoirShape
from core.autointerp.caching.specification import CachingSpec
from core.autointerp.caching.stored import StoredCache
from core.autointerp.examples import FeatureRecord
from core.autointerp.sampling import SamplerSettings, sample
from core.catalogue.catalogue import SourceFilter
from core.demo import ARTEFACTS, DEMO_MODEL_ID
from core.prompts import PromptTokenizer

CONTEXT_TOKENS: Final = 256
SOURCE_SET: Final = "res-demo"
SOURCE: Final = "2-res-demo"
EXEMPLARS: Final = "exemplars"
"""Name of the cache that examples come from, below the folder."""
SAMPLER: Final = SamplerSettings()
"""Delphi's numbers of examples: 40 to explain by, 50 and 50 to judge on."""

_EXEMPLAR_TOKENS: Final = 2**18
_RESERVOIRS: Final = ReservoirShape(top=100, per_octave=24)  # enough for both train and test
_MANY_DOCUMENTS: Final = 10**7


@dataclass(frozen=True, slots=True)
class Cases:
    """What `main` made.

    Attributes:
        folder: Where it is.
    """

    folder: Path

    @property
    def texts(self) -> FileTexts:
        """The corpus."""
        return FileTexts((str(self.folder / "texts.jsonl"),))

    @property
    def latents(self) -> list[int]:
        """Latents of `SOURCE` that have enough examples."""
        return orjson.loads((self.folder / "latents.json").read_bytes())

    def caching(self, n_tokens: int, folder: Path, **changes: Any) -> CachingSpec:
        """A caching job over the beginning of the corpus, of all layers unless changed."""
        settings: dict[str, Any] = {
            "model": DEMO_MODEL_ID,
            "source_sets": (SOURCE_SET,),
            "texts": self.texts,
            "n_tokens": n_tokens,
            "folder": str(folder),
            "windows": WindowShape(CONTEXT_TOKENS, prepend_bos=False),
        }
        return CachingSpec(**(settings | changes))

    def windows(self, n_tokens: int) -> Any:
        """Token ids of the beginning of the corpus, `[windows, context]` int32."""
        import numpy as np

        shape = WindowShape(CONTEXT_TOKENS, prepend_bos=False)
        parts = token_parts(documents(self.texts), tokenizer(), shape, n_tokens // CONTEXT_TOKENS)
        return np.concatenate([part.tokens for part in parts])

    def records(self, latents: Sequence[int]) -> Iterator[FeatureRecord]:
        """The examples of latents, in order."""
        reader = ExemplarReader(StoredCache.open(self.folder / EXEMPLARS), tokenizer())
        for latent in latents:
            yield _record(reader.exemplars(SOURCE, latent))


def tokenizer() -> PromptTokenizer:
    """The demo's."""
    return PromptTokenizer.load(str(ARTEFACTS / "model"))


def build(folder: Path, n_tokens: int, n_latents: int) -> Cases:
    """Makes a corpus of at least `n_tokens`, a cache of its beginning, and chooses latents.

    Raises:
        RuntimeError: There are not enough latents with enough examples.
    """
    cases = Cases(folder)
    _write_texts(folder / "texts.jsonl", max(n_tokens, _EXEMPLAR_TOKENS))
    layer = SourceFilter(include=(f"^{SOURCE}$",))
    cache_activations(cases.caching(_EXEMPLAR_TOKENS, folder / EXEMPLARS, reservoirs=_RESERVOIRS, wanted=layer))
    latents = list(islice(_with_examples(folder), n_latents))
    if len(latents) < n_latents:
        raise RuntimeError(f"{len(latents)} latents of {SOURCE} have enough examples, {n_latents} are wanted")
    (folder / "latents.json").write_bytes(orjson.dumps(latents))
    return cases


def _write_texts(path: Path, n_tokens: int) -> None:
    encoder, written = tokenizer(), -CONTEXT_TOKENS
    with path.open("wb") as file:
        for text in documents(DemoTexts(_MANY_DOCUMENTS)):
            file.write(orjson.dumps({"text": text}) + b"\n")
            written += len(encoder.encode_rendered(text).ids) + 1
            if written >= n_tokens:
                return


def _with_examples(folder: Path) -> Iterator[int]:
    cache = StoredCache.open(folder / EXEMPLARS)
    reader = ExemplarReader(cache, tokenizer())
    for latent in range(cache.n_latents(SOURCE)):
        found = reader.exemplars(SOURCE, latent)
        if len(found.active) < SAMPLER.n_train + SAMPLER.n_test:
            continue
        record = _record(found)
        if len(record.silent) == SAMPLER.n_silent:
            yield latent


def _record(found: Exemplars) -> FeatureRecord:
    return sample(
        found.name, found.active, found.silent, SAMPLER, top_logits=found.top_logits, bottom_logits=found.bottom_logits
    )


def main(words: Sequence[str]) -> None:
    """Makes what is named on the command line."""
    folder, n_tokens, n_latents = words
    build(Path(folder), int(n_tokens), int(n_latents))


if __name__ == "__main__":
    main(sys.argv[1:])
