"""Scores by embeddings: no language model, no judgement, only nearness.

    embedding          is the explanation nearer to texts where the feature fires than to others?
    example-embedding  is a held-out text nearer to its own kind? It reads no explanation: it scores the feature.

Both are areas under the ROC curve, so one half is chance. What stands in front of an explanation for a given model is
the embedder's business.

Source of example-embedding: delphi 0.1.3. A round holds out one active and one silent text and compares each with up to
ten others of either kind, where the feature's tokens (or, in a silent text, as many drawn ones) are marked. Here every
text is embedded once, and silent texts that are held out are never among those compared with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
from pydantic import Field

from core.autointerp.embedder import Embedder, Vectors
from core.autointerp.examples import Example, FeatureRecord
from core.autointerp.language_model import Usage
from core.autointerp.marking import false_positions, mark, strong_positions
from core.autointerp.metrics import auc, auc_interval
from core.autointerp.results import Score
from core.autointerp.scorers.rows import Row, SideChosen, Similarity
from core.autointerp.scorers.scorer import SeededParameters, explained, required, seed_of, stream_of
from core.deadline import Deadline
from core.errors import InvalidRequest

_COMPARED: Final = 10
_THRESHOLD: Final = 0.3


class EmbeddingParameters(SeededParameters):
    """Parameters of `embedding`."""


class ExampleEmbeddingParameters(SeededParameters):
    """Parameters of `example-embedding`."""

    rounds: int = Field(default=20, ge=1, le=1000, description="Times that a text of each kind is held out.")


@dataclass(frozen=True, slots=True)
class EmbeddingScorer:
    """Scores an explanation by how near it is to the feature's texts."""

    embedder: Embedder
    parameters: EmbeddingParameters
    deadline: Deadline

    async def score(self, record: FeatureRecord, explanation: str) -> Score:
        """Area under the ROC curve of the cosines."""
        explanation = explained(explanation)
        required(record.test, "active", "embedding")
        required(record.silent, "silent", "embedding")
        examples = (*record.test, *record.silent)
        query = (await self.embedder.embed([explanation], "query", self.deadline))[0]
        vectors = await self.embedder.embed([example.text for example in examples], "text", self.deadline)
        rows = tuple(
            Similarity(example, example.is_active, float(cosine))
            for example, cosine in zip(examples, vectors @ query, strict=True)
        )
        truth, values = [row.truth for row in rows], [row.similarity for row in rows]
        quantiles = [row.quantile if row.truth else None for row in rows]
        return _by_area(rows, truth, values, quantiles, seed_of(record, "embedding", self.parameters.seed))


@dataclass(frozen=True, slots=True)
class ExampleEmbeddingScorer:
    """Scores a feature by whether its texts are nearer to each other than to others."""

    embedder: Embedder
    parameters: ExampleEmbeddingParameters
    deadline: Deadline

    async def score(self, record: FeatureRecord, explanation: str = "") -> Score:
        """Area under the ROC curve of the held-out texts' margins.

        Raises:
            InvalidRequest: There are less than two examples of a kind.
        """
        required(record.test, "active", "example-embedding")
        required(record.silent, "silent", "example-embedding")
        if min(len(record.test), len(record.silent)) < 2:
            raise InvalidRequest(
                "example-embedding holds out an example of each kind, and needs at least two of each to have others",
                "Give more examples, or use the embedding scorer.",
            )
        rng = stream_of(record, "example-embedding", self.parameters.seed)
        silent = rng.sample(record.silent, len(record.silent))
        compared, held_out = silent[: len(silent) // 2], silent[len(silent) // 2 :]
        rounds = [_draw(record.test, compared, held_out, rng) for _ in range(self.parameters.rounds)]
        texts = list(dict.fromkeys(text for one in rounds for text in one.texts))
        vectors = await self.embedder.embed(texts, "text", self.deadline)
        place = {text: i for i, text in enumerate(texts)}
        rows = tuple(row for one in rounds for row in one.rows(vectors, place))
        seed = seed_of(record, "example-embedding", self.parameters.seed)
        return _by_area(rows, [row.truth for row in rows], [row.margin for row in rows], [None] * len(rows), seed)


@dataclass(frozen=True, slots=True)
class _Round:
    quantile: int | None
    active_query: str
    silent_query: str
    active: tuple[str, ...]
    silent: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.active_query, self.silent_query, *self.active, *self.silent)

    def rows(self, vectors: Vectors, place: dict[str, int]) -> list[SideChosen]:
        """One row for each text held out."""
        active = vectors[[place[text] for text in self.active]].mean(axis=0)
        silent = vectors[[place[text] for text in self.silent]].mean(axis=0)
        queries = ((True, self.active_query), (False, self.silent_query))
        return [
            SideChosen(query, truth, self.quantile, float(np.dot(vectors[place[query]], active - silent)))
            for truth, query in queries
        ]


def _draw(test: Sequence[Example], compared: Sequence[Example], held_out: Sequence[Example], rng: Random) -> _Round:
    query_at = rng.randrange(len(test))
    query = test[query_at]
    others = [example for i, example in enumerate(test) if i != query_at]
    same_part = [example for example in others if example.quantile == query.quantile] or others
    count = sum(activation > 0 for activation in query.activations)
    active = rng.sample(same_part, min(_COMPARED, len(same_part)))
    silent = rng.sample(compared, min(_COMPARED, len(compared)))
    return _Round(
        quantile=query.quantile,
        active_query=_marked(query),
        silent_query=_falsely_marked(rng.choice(held_out), count, rng),
        active=tuple(_marked(example) for example in active),
        silent=tuple(_falsely_marked(example, count, rng) for example in silent),
    )


def _marked(example: Example) -> str:
    return mark(example.tokens, strong_positions(example, _THRESHOLD))


def _falsely_marked(example: Example, count: int, rng: Random) -> str:
    return mark(example.tokens, false_positions(example, _THRESHOLD, count, rng))


def _by_area(
    rows: tuple[Row, ...],
    truth: Sequence[bool],
    values: Sequence[float],
    quantiles: Sequence[int | None],
    seed: int,
) -> Score:
    area = auc(truth, values)
    if area is None:  # both kinds are there: they were required
        raise AssertionError("an area needs examples of both kinds")
    parts: dict[int, float] = {}
    for part in sorted({quantile for quantile in quantiles if quantile is not None}):
        kept = [i for i, told in enumerate(truth) if not told or quantiles[i] == part]
        of_part = auc([truth[i] for i in kept], [values[i] for i in kept])
        if of_part is not None:
            parts[part] = of_part
    return Score(
        value=area,
        metric="auc",
        status="ok",
        rows=rows,
        usage=Usage(),
        interval=auc_interval(truth, values, seed),
        metrics={"auc": area},
        by_quantile=parts,
    )
