"""Embeddings, intruders and simulation: right features score high, wrong explanations low, failures are no numbers."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from core.autointerp.delphi_import import delphi_module
from core.autointerp.delphi_records import delphi_client, latent_record
from core.autointerp.examples import Example, FeatureRecord
from core.autointerp.language_model import Ask
from core.autointerp.scorers.embedding import (
    EmbeddingParameters,
    EmbeddingScorer,
    ExampleEmbeddingParameters,
    ExampleEmbeddingScorer,
)
from core.autointerp.scorers.intruder import IntruderParameters, IntruderScorer
from core.autointerp.scorers.rows import IntruderFound, SideChosen, Similarity, Simulated
from core.autointerp.scorers.simulation import SimulationParameters, SimulationScorer, read_activations
from core.deadline import Deadline
from core.errors import InvalidRequest, Unauthorized

from .scripted import ScriptedModel, cats_and_stones, in_turn, shown_examples


def soon() -> Deadline:
    return Deadline.after(600)


class Bag:
    """Embeds by which of a few words are in a text; remembers what it was asked."""

    name = "bag"

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []

    async def embed(self, texts: Sequence[str], kind: str, deadline: Deadline):
        self.asked.append((kind, list(texts)))
        rows = [[1.0 + 4 * ("cat" in text), 1.0 + 4 * ("stone" in text), len(text) / 100] for text in texts]
        vectors = np.array(rows, dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("explanation", "value"), [("cats", 1.0), ("stones", 0.0)])
def test_an_explanation_near_the_features_texts_scores_high(explanation: str, value: float) -> None:
    bag = Bag()
    score = asyncio.run(EmbeddingScorer(bag, EmbeddingParameters(), soon()).score(cats_and_stones(6, 4), explanation))
    assert (score.value, score.metric, score.status, len(score.rows)) == (value, "auc", "ok", 10)
    assert score.by_quantile == {1: value, 2: value, 3: value}
    assert [(kind, len(texts)) for kind, texts in bag.asked] == [("query", 1), ("text", 10)]
    assert bag.asked[0][1] == [explanation]
    cosines = [row.similarity for row in score.rows if isinstance(row, Similarity)]
    assert len(cosines) == 10
    assert max(abs(cosine) for cosine in cosines) <= 1.0 + 1e-6


def test_a_feature_whose_texts_are_alike_scores_high_without_an_explanation() -> None:
    record = cats_and_stones(8, 6)
    scorer = ExampleEmbeddingScorer(Bag(), ExampleEmbeddingParameters(rounds=12), soon())
    assert asyncio.run(scorer.score(record)).value == 1.0
    mixed = tuple(
        replace(one, activations=(0.0, 1.0, 0.0, 0.0, 0.0)) if i % 2 else one for i, one in enumerate(record.silent)
    )
    nothing = replace(record, test=tuple(e for e in mixed if e.is_active), silent=record.silent)
    value = asyncio.run(scorer.score(nothing)).value
    assert value is not None
    assert 0.2 < value < 0.8  # stones against stones


def test_every_text_is_embedded_once() -> None:
    bag = Bag()
    scorer = ExampleEmbeddingScorer(bag, ExampleEmbeddingParameters(), soon())
    first = asyncio.run(scorer.score(cats_and_stones(8, 6)))
    ((kind, texts),) = bag.asked
    assert kind == "text"
    assert len(texts) == len(set(texts))
    assert first == asyncio.run(scorer.score(cats_and_stones(8, 6)))


def test_a_silent_text_that_is_held_out_is_never_among_those_compared_with() -> None:
    score = asyncio.run(
        ExampleEmbeddingScorer(Bag(), ExampleEmbeddingParameters(), soon()).score(cats_and_stones(8, 6))
    )
    held_out = {
        row.text.replace("<<", "").replace(">>", "")
        for row in score.rows
        if isinstance(row, SideChosen) and not row.truth
    }
    assert len(score.rows) == 40
    assert len(held_out) == 3  # the other half is compared with


@pytest.mark.parametrize("record", [cats_and_stones(1, 5), cats_and_stones(5, 1)])
def test_holding_out_needs_two_of_each_kind(record: FeatureRecord) -> None:
    with pytest.raises(InvalidRequest, match="two of each"):
        asyncio.run(ExampleEmbeddingScorer(Bag(), ExampleEmbeddingParameters(), soon()).score(record))


def intruder(model: ScriptedModel, **parameters: object) -> IntruderScorer:
    return IntruderScorer(model, IntruderParameters.model_validate(parameters))


def pointing(at: Callable[[list[str]], int]) -> Callable[[Ask], str]:
    return lambda question: f"because\n[RESPONSE]: {at(shown_examples(question))}"


def stone(texts: list[str]) -> int:
    return next(i for i, text in enumerate(texts) if "stone" in text)


def test_a_feature_whose_texts_belong_together_gives_its_intruders_away() -> None:
    model = ScriptedModel(pointing(stone))
    score = asyncio.run(intruder(model).score(cats_and_stones(18, 6)))
    assert (score.value, score.metric, score.status, len(score.rows)) == (1.0, "accuracy", "ok", 6)
    assert score.metrics["chance"] == pytest.approx(0.2)
    assert score.by_quantile == {1: 1.0, 2: 1.0, 3: 1.0}
    assert model.peak == 6
    for row in score.rows:
        assert isinstance(row, IntruderFound)
        assert all("<<" in text for text in row.texts)
        assert row.reason == "because"
    wrong = asyncio.run(
        intruder(ScriptedModel(pointing(lambda texts: (stone(texts) + 1) % 5))).score(cats_and_stones())
    )
    assert wrong.value == 0.0


def test_intruders_are_asked_for_in_delphis_words() -> None:
    ours, theirs = ScriptedModel(pointing(stone)), ScriptedModel(pointing(stone))
    record = cats_and_stones(12, 2)
    asyncio.run(intruder(ours).score(record))
    original = delphi_module("scorers").IntruderScorer(delphi_client(theirs), n_examples_shown=5)
    import random

    state = random.getstate()
    asyncio.run(original(latent_record(record)))
    random.setstate(state)
    assert ours.asked[0].messages[:-1] == theirs.asked[0].messages[:-1]
    start = "Examples:\n\nExample 0:"
    assert ours.asked[0].messages[-1].content.startswith(start)
    assert theirs.asked[0].messages[-1].content.startswith(start)


def test_an_intruder_that_is_not_there_is_a_failed_row() -> None:
    score = asyncio.run(intruder(ScriptedModel(in_turn("[RESPONSE]: 5"))).score(cats_and_stones()))
    assert (score.value, score.status) == (None, "invalid")
    one_bad = asyncio.run(intruder(ScriptedModel(in_turn("well", "[RESPONSE]: 0"))).score(cats_and_stones(18, 10)))
    assert (one_bad.status, one_bad.metrics["failure_rate"]) == ("partial", pytest.approx(0.1))


def simulating(activation: Callable[[str], object]) -> Callable[[Ask], str]:
    def answer(question: Ask) -> str:
        asked = json.loads(question.messages[-1].content)
        filled = [{"token": one["token"], "activation": activation(one["token"])} for one in asked["activations"]]
        return "```json\n" + json.dumps({**asked, "activations": filled}) + "\n```"

    return answer


def simulation(model: ScriptedModel) -> SimulationScorer:
    return SimulationScorer(model, SimulationParameters())


def test_expected_activations_are_correlated_with_the_true_ones() -> None:
    record = FeatureRecord(
        None,
        (),
        (Example((" a", " cat", " sat"), (0.0, 4.0, 2.0), quantile=1),),
        (Example((" a", " stone"), (0.0, 0.0)),),
    )
    expected = {" a": 1, " cat": 8, " sat": 3, " stone": 0}
    model = ScriptedModel(simulating(lambda token: expected[token]))
    score = asyncio.run(simulation(model).score(record, "cats"))
    # Pearson by its definition, over both texts.
    true, said = [0.0, 4.0, 2.0, 0.0, 0.0], [1.0, 8.0, 3.0, 1.0, 0.0]
    mean_true, mean_said = sum(true) / 5, sum(said) / 5
    above = sum((t - mean_true) * (s - mean_said) for t, s in zip(true, said, strict=True))
    below = (sum((t - mean_true) ** 2 for t in true) * sum((s - mean_said) ** 2 for s in said)) ** 0.5
    assert score.value == pytest.approx(above / below)
    assert (score.metric, score.status, model.peak) == ("correlation", "ok", 2)
    assert list(score.by_quantile) == [1]


def test_the_simulator_is_asked_what_delphi_asks() -> None:
    record = cats_and_stones(2, 1)
    ours, theirs = (ScriptedModel(simulating(lambda token: 3 * ("cat" in token))) for _ in range(2))
    asyncio.run(simulation(ours).score(record, "cats"))
    module = delphi_module("scorers.simulator.simulation.simulator")
    for example in (*record.test, *record.silent):
        asyncio.run(module.NeuronSimulator(delphi_client(theirs), "cats", False).simulate(list(example.tokens)))
    assert [ask.messages for ask in ours.asked] == [ask.messages for ask in theirs.asked]


def test_expecting_nothing_everywhere_has_no_correlation() -> None:
    score = asyncio.run(simulation(ScriptedModel(simulating(lambda token: 0))).score(cats_and_stones(), "cats"))
    assert (score.value, score.status) == (None, "invalid")
    assert score.reason is not None


def test_a_simulation_that_can_not_be_read_is_no_zeros() -> None:
    model = ScriptedModel(in_turn("no", simulating(lambda token: 0)(asked_for(" a", " cat"))))
    record = FeatureRecord(None, (), (Example((" a", " cat"), (0.0, 1.0)),) * 2)
    score = asyncio.run(simulation(model).score(record, "cats"))
    assert (score.value, score.status) == (None, "invalid")
    assert [row.expected for row in score.rows if isinstance(row, Simulated)] == [None, (0.0, 0.0)]


def asked_for(*tokens: str) -> Ask:
    from core.autointerp.prompts import simulating as question

    return Ask(tuple(question("x", tokens)), 10)


@pytest.mark.parametrize("value", ["3", None, True, -1, 11, float("nan")])
def test_activations_are_numbers_from_0_to_10(value: object) -> None:
    answer = json.dumps({"activations": [{"token": "a", "activation": value}]})
    assert read_activations(answer, 1) is None
    assert read_activations(answer.replace(json.dumps(value), "10"), 1) == (10.0,)
    assert read_activations(answer.replace(json.dumps(value), "10"), 2) is None


def test_a_refused_key_is_raised_by_every_scorer_that_asks() -> None:
    model = ScriptedModel(in_turn(Unauthorized("the provider does not know the key")))
    for scorer in (intruder(model), simulation(model)):
        with pytest.raises(Unauthorized):
            asyncio.run(scorer.score(cats_and_stones(), "cats"))
