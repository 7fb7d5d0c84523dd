"""Questions of every kind about the tiny GPT-2, what they should be answered, and how answers are compared."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from core.questions import (
    ActiveFeaturesAnswer,
    ActiveFeaturesQuestion,
    AttentionAnswer,
    AttentionQuestion,
    Attribution,
    DirectionAnswer,
    DirectionQuestion,
    FeatureAnswer,
    FeatureQuestion,
    MatrixAnswer,
    MessageMeansAnswer,
    MessageMeansQuestion,
    PredictionSimilarityQuestion,
    Question,
    ResidualAnswer,
    ResidualQuestion,
    TopFeaturesAnswer,
    TopFeaturesQuestion,
    TopPerTokenAnswer,
    TopPerTokenQuestion,
    VectorQuestion,
)
from tests.gpt2_with_saes import EVERY_SOURCE, LOCAL, N_HEADS, Truth
from tests.tiny_models import D_MODEL, D_SAE, GPT2_LAYERS

NEAR = 2e-4
VOCAB_SIZE = 400
ATTENTION_SOURCES = frozenset(source for source in LOCAL if "-att-" in source)
WIDTHS = {source: LOCAL[source][2] if source in LOCAL else D_SAE for source in EVERY_SOURCE}


def expected(truth: Truth, question: Question) -> Any:
    """The answer from whole encodings, sorted and cut in plain Python and NumPy."""
    return _EXPECTED[type(question)](truth, question)


def _feature(truth: Truth, asked: FeatureQuestion) -> FeatureAnswer:
    values = truth.features(asked.tokens, asked.source)[:, asked.index].numpy().copy()
    values[list(asked.silent_positions)] = 0
    offset = int(asked.drop_first)
    values = values[offset:]
    if not asked.dfa:
        return FeatureAnswer(values)
    target = int(values.argmax())
    dfa = truth.dfa(asked.tokens, asked.source, asked.index, target + offset)
    return FeatureAnswer(values, Attribution(dfa[offset:].float().numpy(), target))


def _vector(truth: Truth, asked: VectorQuestion) -> FeatureAnswer:
    activation = truth.activation(asked.tokens, asked.hook_name).double()
    return FeatureAnswer((activation @ torch.tensor(asked.vector, dtype=torch.float64)).float().numpy())


def _top_features(truth: Truth, asked: TopFeaturesQuestion) -> TopFeaturesAnswer:
    rows: list[tuple[float, int, int, np.ndarray]] = []
    for number, source in enumerate(asked.sources):
        features = truth.features(asked.tokens, source).numpy().copy()
        features[list(asked.silent_positions)] = 0
        for index in range(features.shape[1]):
            if asked.feature_filter is None or index in asked.feature_filter:
                column = features[:, index]
                key = column[list(asked.sort_positions)].sum() if asked.sort_positions else column.max()
                rows.append((float(key), number, index, column))
    rows = sorted(rows, key=lambda row: -row[0])[: asked.k]
    attributions: dict[int, Attribution] = {}
    for place, (_, number, index, column) in enumerate(rows):
        source = asked.sources[number]
        if source in asked.dfa_sources:
            target = int(column.argmax())
            attributions[place] = Attribution(truth.dfa(asked.tokens, source, index, target).float().numpy(), target)
    return TopFeaturesAnswer(
        sources=tuple(asked.sources[row[1]] for row in rows),
        indexes=np.array([row[2] for row in rows], dtype=np.int64),
        values=np.array([row[3] for row in rows], dtype=np.float32).reshape(len(rows), len(asked.tokens)),
        keys=np.array([row[0] for row in rows], dtype=np.float32),
        attributions=attributions,
    )


def _active(truth: Truth, asked: ActiveFeaturesQuestion) -> ActiveFeaturesAnswer:
    features = truth.features(asked.tokens, asked.source).numpy()
    entries = [
        (position, index, features[position, index])
        for position in range(asked.first_position, len(asked.tokens))
        for index in range(features.shape[1])
        if features[position, index] != 0
    ]
    return ActiveFeaturesAnswer(
        np.array([entry[0] for entry in entries], dtype=np.int64),
        np.array([entry[1] for entry in entries], dtype=np.int64),
        np.array([entry[2] for entry in entries], dtype=np.float32),
    )


def _top_per_token(truth: Truth, asked: TopPerTokenQuestion) -> TopPerTokenAnswer:
    features = truth.features(asked.tokens, asked.source).numpy()
    order = np.argsort(-features, axis=1, kind="stable")[:, : max(1, min(asked.k, features.shape[1]))]
    return TopPerTokenAnswer(order, np.take_along_axis(features, order, 1))


def _residual(truth: Truth, asked: ResidualQuestion) -> ResidualAnswer:
    rows = [truth.activation(asked.tokens, f"blocks.{layer}.hook_resid_post")[-1] for layer in asked.layers]
    return ResidualAnswer(asked.layers, torch.stack(rows).numpy(), "float32", "cpu")


def _attention(truth: Truth, asked: AttentionQuestion) -> AttentionAnswer:
    pattern = truth.pattern(asked.tokens, asked.layer)[asked.head].numpy()
    length = len(asked.tokens)
    if length < 2:
        return AttentionAnswer(np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.float32), 0.0)
    kept = [
        (query, key)
        for query in range(length)
        for key in sorted(np.argsort(-pattern[query], kind="stable")[: asked.top].tolist())
        if pattern[query, key] >= asked.floor
    ]
    return AttentionAnswer(
        np.array([query for query, _ in kept]),
        np.array([key for _, key in kept]),
        np.array([pattern[place] for place in kept], dtype=np.float32),
        float(pattern[1:, 1:].max()),
    )


@torch.no_grad()
def _similarity(truth: Truth, asked: PredictionSimilarityQuestion) -> MatrixAnswer:
    rows = truth.activation(asked.tokens, truth.hooks[asked.source]).unsqueeze(0)
    predicted = truth.saes[asked.source].encode_with_predictions(rows)[1][0].double()
    centred = predicted - predicted.mean(0)
    lengths = centred.norm(dim=-1).clamp(min=1e-12)
    cosines = centred @ centred.T / lengths[:, None] / lengths[None]
    return MatrixAnswer(cosines[1:, 1:].float().numpy())


def _means(truth: Truth, asked: MessageMeansQuestion) -> MessageMeansAnswer:
    rows = truth.activation(asked.tokens, asked.hook_name).double().numpy()
    means = [rows[start:end].mean(0) if end > start else np.zeros(D_MODEL) for start, end in asked.spans]
    return MessageMeansAnswer(np.array(means, dtype=np.float32).reshape(len(asked.spans), D_MODEL))


def _direction(truth: Truth, asked: DirectionQuestion) -> DirectionAnswer:
    rows = truth.activation(asked.tokens, asked.hook_name).double().numpy()
    direction = np.array(asked.direction)
    centre = np.zeros(D_MODEL) if asked.centre is None else np.array(asked.centre)

    def read(row: np.ndarray) -> float:
        shifted = row - centre
        return float(shifted @ direction / (np.sqrt((shifted**2).sum()) if asked.normalize else 1.0))

    values: list[float] = []
    for start, end in asked.spans:
        if end == start:
            values.append(0.0)
        elif asked.pooling == "mean":
            values.append(read(rows[start:end].mean(0)))
        elif asked.pooling == "last":
            values.append(read(rows[end - 1]))
        else:
            values.append(max(read(row) for row in rows[start:end]))
    return DirectionAnswer(np.array(values, dtype=np.float32))


_EXPECTED: dict[type, Callable[[Truth, Any], Any]] = {
    FeatureQuestion: _feature,
    VectorQuestion: _vector,
    TopFeaturesQuestion: _top_features,
    ActiveFeaturesQuestion: _active,
    TopPerTokenQuestion: _top_per_token,
    ResidualQuestion: _residual,
    AttentionQuestion: _attention,
    PredictionSimilarityQuestion: _similarity,
    MessageMeansQuestion: _means,
    DirectionQuestion: _direction,
}


def assert_same(found: Any, wanted: Any, tolerance: float = NEAR) -> None:
    """Whether two answers agree: numbers nearly, everything else exactly.

    Where two activations are equal but for rounding, their order is open, and so is which of them is the last to be
    reported; `topk-by-token` leaves exact ties open, too. Such features are compared by their values alone.
    """
    if isinstance(wanted, TopFeaturesAnswer):
        _assert_same_ranking(found, wanted, tolerance)
    elif isinstance(wanted, TopPerTokenAnswer):
        np.testing.assert_allclose(found.values, wanted.values, rtol=tolerance, atol=tolerance)
        apart = _apart(wanted.values, tolerance, ties_are_settled=False)
        np.testing.assert_array_equal(found.indexes[apart], wanted.indexes[apart])
    elif dataclasses.is_dataclass(wanted):
        assert type(found) is type(wanted)
        for part in dataclasses.fields(wanted):
            assert_same(getattr(found, part.name), getattr(wanted, part.name), tolerance)
    elif isinstance(wanted, np.ndarray) and wanted.dtype.kind == "f":
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)
    elif isinstance(wanted, np.ndarray):
        np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted, float):
        assert abs(found - wanted) <= tolerance
    else:
        assert found == wanted


def _assert_same_ranking(found: TopFeaturesAnswer, wanted: TopFeaturesAnswer, tolerance: float) -> None:
    np.testing.assert_allclose(found.keys, wanted.keys, rtol=tolerance, atol=tolerance)
    assert found.values.shape == wanted.values.shape
    assert found.indexes.dtype == np.int64
    assert set(found.attributions) <= set(range(len(found.sources)))
    for place in np.flatnonzero(_apart(wanted.keys, tolerance, ties_are_settled=True)).tolist():
        assert (found.sources[place], found.indexes[place]) == (wanted.sources[place], wanted.indexes[place])
        np.testing.assert_allclose(found.values[place], wanted.values[place], rtol=tolerance, atol=tolerance)
        assert_same(found.attributions.get(place), wanted.attributions.get(place), tolerance)


def _apart(ordered: np.ndarray, tolerance: float, *, ties_are_settled: bool) -> np.ndarray:
    """Where a descending row differs enough from both neighbours; the last place is open."""
    gaps = np.abs(np.diff(ordered, axis=-1))
    settled = gaps > 4 * tolerance * (1 + np.abs(ordered[..., 1:]))
    if ties_are_settled:
        settled |= gaps == 0
    first = np.ones_like(settled[..., :1])
    before, after = np.concatenate([first, settled], -1), np.concatenate([settled, ~first], -1)
    return before & after


def prompts(min_size: int = 1, max_size: int = 12) -> st.SearchStrategy[tuple[int, ...]]:
    """Token ids."""
    return st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=min_size, max_size=max_size).map(tuple)


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """A question of any kind that can be answered."""
    tokens = draw(prompts())
    source = draw(st.sampled_from(EVERY_SOURCE))
    places = st.lists(st.integers(0, len(tokens) - 1), max_size=3, unique=True).map(tuple)
    kind = draw(st.integers(0, 9))
    if kind == 0:
        index = draw(st.integers(0, WIDTHS[source] - 1))
        drop_first = len(tokens) > 1 and draw(st.booleans())
        return FeatureQuestion(tokens, source, index, draw(places), drop_first, source in ATTENTION_SOURCES)
    if kind == 1:
        hook = draw(st.sampled_from(["blocks.0.hook_resid_post", "blocks.3.attn.hook_z", "blocks.2.mlp.hook_in"]))
        vector = np.random.default_rng(draw(st.integers(0, 99))).normal(size=D_MODEL)
        return VectorQuestion(tokens, hook, tuple(vector.tolist()))
    if kind == 2:
        sources = draw(st.lists(st.sampled_from(EVERY_SOURCE), min_size=1, max_size=4, unique=True))
        wanted = draw(st.none() | st.sets(st.integers(0, D_SAE - 1), min_size=1, max_size=20).map(tuple))
        k = draw(st.integers(1, 60))
        return TopFeaturesQuestion(tokens, tuple(sources), k, draw(places), draw(places), wanted, ATTENTION_SOURCES)
    if kind == 3:
        return ActiveFeaturesQuestion(tokens, source, draw(st.integers(0, 1)))
    if kind == 4:
        return TopPerTokenQuestion(tokens, source, draw(st.integers(1, 120)))
    if kind == 5:
        layers = draw(st.sets(st.integers(0, GPT2_LAYERS - 1), min_size=1, max_size=3))
        return ResidualQuestion(tokens, tuple(sorted(layers)))
    if kind == 6:
        layer, head = draw(st.integers(0, GPT2_LAYERS - 1)), draw(st.integers(0, N_HEADS - 1))
        return AttentionQuestion(tokens, layer, head, draw(st.integers(1, 9)))
    if kind >= 8:
        end = st.integers(0, len(tokens))
        spans = tuple(tuple(sorted(pair)) for pair in draw(st.lists(st.tuples(end, end), max_size=4)))
        hook = draw(st.sampled_from(["blocks.4.hook_resid_post", "blocks.0.hook_resid_pre"]))
        if kind == 8:
            return MessageMeansQuestion(tokens, hook, spans)
        direction, centre = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(2, D_MODEL))
        return DirectionQuestion(
            tokens,
            hook,
            spans,
            tuple(direction.tolist()),
            draw(st.sampled_from(["mean", "last", "max"])),
            tuple(centre.tolist()) if draw(st.booleans()) else None,
            draw(st.booleans()),
        )
    return PredictionSimilarityQuestion(tokens, "4-mix")


def one_of_each(tokens: Sequence[int]) -> list[Question]:
    """One question of every kind, and one per source."""
    ids = tuple(tokens)
    return [
        *(FeatureQuestion(ids, source, 5, dfa=source in ATTENTION_SOURCES) for source in EVERY_SOURCE),
        *(FeatureQuestion(ids, source, 8, (0,), True, True) for source in sorted(ATTENTION_SOURCES)),
        VectorQuestion(ids, "blocks.3.hook_resid_post", tuple(0.01 * n for n in range(D_MODEL))),
        TopFeaturesQuestion(ids, EVERY_SOURCE, 25, silent_positions=(0,), dfa_sources=ATTENTION_SOURCES),
        TopFeaturesQuestion(ids, ("2-res-jb", "1-mix"), 9, sort_positions=(1,), feature_filter=(70, 3, 40)),
        *(ActiveFeaturesQuestion(ids, source, 1) for source in EVERY_SOURCE),
        *(TopPerTokenQuestion(ids, source, 4) for source in EVERY_SOURCE),
        ResidualQuestion(ids, (0, 5, 11)),
        AttentionQuestion(ids, 2, 3),
        PredictionSimilarityQuestion(ids, "4-mix"),
        MessageMeansQuestion(ids, "blocks.6.hook_resid_post", ((0, len(ids)), (1, 1), (1, len(ids)))),
        DirectionQuestion(ids, "blocks.6.hook_resid_post", ((0, len(ids)), (1, 1)), (0.1,) * D_MODEL, "max"),
    ]
