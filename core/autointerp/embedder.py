"""Embeddings of texts: one sentence model on one thread, shared by everybody who asks at the same time.

    embed(texts) of many callers --> Batcher, a text an entry --> DeviceExecutor, one batch a step --> unit vectors

Texts that wait while the model is busy become its next batch, so scores of many features in flight use it as well as
one large request would. Vectors have length 1: the cosine of two is their dot product.

Models differ in what they want in front of a question and in front of a text; both prefixes are configuration, and
belong to the embedder, not to its callers.

Deliberately not here: judging by embeddings (`core.autointerp.scorers`), and fetching models beyond what
`sentence-transformers` does itself; offline, which is the default, it fetches nothing.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from core.batching import Batcher, BatchLimits
from core.deadline import Deadline
from core.device import DeviceExecutor, DeviceName, resolve_device
from core.errors import InvalidRequest, NotFound
from core.metrics import NULL_METRICS, MetricSink

Vectors = npt.NDArray[np.float32]
Kind = Literal["query", "text"]

_CHARACTERS_PER_TOKEN: Final = 3
_LIMITS: Final = BatchLimits(budget_tokens=16_384, max_entries=256, max_queued_tokens=1_000_000)


class Embedder(Protocol):
    """Embeds."""

    @property
    def name(self) -> str:
        """Which model; part of cache keys."""
        ...

    async def embed(self, texts: Sequence[str], kind: Kind, deadline: Deadline) -> Vectors:
        """Vectors of length 1, `[texts, d]`, in order.

        Args:
            texts: What to embed, none of them empty.
            kind: Whether they are questions (explanations) or texts that may answer them (examples).
            deadline: When the answer is no longer wanted.

        Raises:
            RayscopeError: There is no answer; the type and message say why.
        """
        ...


class SentenceModel(Protocol):
    """What of `sentence_transformers.SentenceTransformer` is used."""

    def encode(self, sentences: list[str], **kwargs: Any) -> Any:
        """Vectors `[sentences, d]`."""
        ...


@dataclass(frozen=True, slots=True)
class EmbedderSettings:
    """Which model, and how it wants to be asked.

    Attributes:
        model: A folder, or an id on the Hugging Face hub.
        query_prefix: Put in front of an explanation.
        text_prefix: Put in front of an example.
        device: Where it runs.
        offline: Whether only what is on this machine may be used.
        trusts_code: Whether Python files that come with the model may be run. Off but for models that are known.
        max_tokens: Longest text; the rest is cut off. None leaves it to the model.
        limits: How much goes into a step, and how much may wait. Tokens are estimated from characters.
    """

    model: str
    query_prefix: str = ""
    text_prefix: str = ""
    device: DeviceName = "auto"
    offline: bool = True
    trusts_code: bool = False
    max_tokens: int | None = None
    limits: BatchLimits = field(default=_LIMITS)


def load_sentence_model(settings: EmbedderSettings) -> SentenceModel:
    """Read a model's weights, from safetensors only.

    Raises:
        NotFound: It is not there, or not a sentence model.
        Unavailable: The device is not there.
    """
    device = resolve_device(settings.device)
    from sentence_transformers import SentenceTransformer

    try:
        model: Any = SentenceTransformer(
            settings.model,
            device=device,
            local_files_only=settings.offline,
            trust_remote_code=settings.trusts_code,
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError) as error:
        raise NotFound(
            f"the embedding model {settings.model} can not be loaded: {str(error).partition(chr(10))[0]}",
            "name a folder or a cached model with safetensors weights, or allow it to be fetched",
        ) from error
    if settings.max_tokens is not None:
        model.max_seq_length = settings.max_tokens
    return model


class BatchedEmbedder:
    """An `Embedder` on a device thread. Close it with `aclose`; the executor stays its owner's."""

    def __init__(
        self,
        model: SentenceModel,
        settings: EmbedderSettings,
        executor: DeviceExecutor,
        metrics: MetricSink = NULL_METRICS,
    ) -> None:
        self._model = model
        self._settings = settings
        self._executor = executor
        self._batcher: Batcher[str, Vectors] = Batcher(self._step, self._tokens, settings.limits, metrics=metrics)

    @property
    def name(self) -> str:
        """Which model."""
        return self._settings.model

    async def embed(self, texts: Sequence[str], kind: Kind, deadline: Deadline) -> Vectors:
        """Vectors of length 1, `[texts, d]`, in order. The first that fails takes the others out of the queue.

        Raises:
            InvalidRequest: There is no text, or one is empty.
            Overloaded: Too much is waiting.
            DeadlineExceeded: It took too long.
            Unavailable: The model is closing, or its device failed.
        """
        if not texts or not all(texts):
            raise InvalidRequest("there is nothing to embed: a text is empty, or there are none")
        prefix = self._settings.query_prefix if kind == "query" else self._settings.text_prefix
        asked = [asyncio.ensure_future(self._batcher.submit(prefix + text, deadline)) for text in texts]
        try:
            return np.stack(await asyncio.gather(*asked))
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def aclose(self) -> None:
        """Refuse what waits and let the step under way answer."""
        await self._batcher.aclose()

    def _tokens(self, text: str) -> int:
        longest = self._settings.limits.longest_entry_tokens  # the model cuts longer ones off
        return min(1 + len(text) // _CHARACTERS_PER_TOKEN, longest)

    async def _step(self, texts: list[str]) -> list[Vectors | Exception]:
        return list(await self._executor.run(self._encode, texts))

    def _encode(self, texts: list[str]) -> Vectors:
        vectors = self._model.encode(
            texts,
            batch_size=len(texts),
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=True,
        )
        return np.asarray(vectors, dtype=np.float32)
