"""Detection and fuzz: what judges are asked, what becomes of their answers, and that nothing is lost or made up."""

import asyncio
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.autointerp.delphi_import import delphi_module
from core.autointerp.delphi_records import delphi_client, latent_record
from core.autointerp.examples import Example, FeatureName, FeatureRecord
from core.autointerp.language_model import Ask, TokenChoice
from core.autointerp.results import Score
from core.autointerp.scorers.classification import (
    ClassificationParameters,
    ClassificationScorer,
    FuzzParameters,
    read_answers,
    read_probabilities,
)
from core.autointerp.scorers.rows import Judgement
from core.errors import InvalidRequest, Unauthorized

from .scripted import ScriptedModel, active, cats_and_stones, in_turn, judging, shown_examples, silent, with_logprobs


def scored(scorer: ClassificationScorer, record: FeatureRecord | None = None, explanation: str = "cats") -> Score:
    return asyncio.run(scorer.score(record or cats_and_stones(), explanation))


def detection(model: ScriptedModel, **parameters: object) -> ClassificationScorer:
    return ClassificationScorer(model, "detection", ClassificationParameters.model_validate(parameters))


def fuzz(model: ScriptedModel, **parameters: object) -> ClassificationScorer:
    return ClassificationScorer(model, "fuzz", FuzzParameters.model_validate(parameters))


def judgements(score: Score) -> list[Judgement]:
    return [row for row in score.rows if isinstance(row, Judgement)]


@pytest.mark.parametrize("kind", ["detection", "fuzz"])
def test_in_delphis_style_the_fixed_text_and_the_true_examples_are_delphis(kind: str) -> None:
    record = cats_and_stones(n_active=5, n_silent=5)
    ours, theirs = ScriptedModel(judging(lambda text: True)), ScriptedModel(judging(lambda text: True))
    scored((detection if kind == "detection" else fuzz)(ours))
    scorers = delphi_module("scorers")
    original = (scorers.DetectionScorer if kind == "detection" else scorers.FuzzingScorer)(
        delphi_client(theirs), n_examples_shown=5
    )
    state = random.getstate()  # delphi's own fuzz reseeds the global generator
    asyncio.run(original(latent_record(record, "cats")))
    random.setstate(state)
    fixed = [(message.role, message.content) for message in ours.asked[0].messages[:-1]]
    assert fixed == [(message.role, message.content) for message in theirs.asked[0].messages[:-1]]
    start = "Latent explanation: cats\n\nText examples:\n\nExample 0: "
    assert ours.asked[0].messages[-1].content.startswith(start)
    assert theirs.asked[0].messages[-1].content.startswith(start)
    mine = {text for ask in ours.asked for text in shown_examples(ask) if "cat" in text}
    assert {text for ask in theirs.asked for text in shown_examples(ask) if "cat" in text} <= mine


def test_in_the_peers_style_only_the_fixed_text_is_reworded() -> None:
    model = ScriptedModel(judging(lambda text: "latent" in text))
    record = FeatureRecord(None, (), (active(" a", " latent", at=1),), (silent(" b", " c"),))
    scored(detection(model, prompt_style="neuronpedia"), record, explanation="Latent heat")
    *fixed, last = model.asked[0].messages
    assert not any("latent" in message.content.lower() for message in fixed)
    assert last.content.startswith("Feature explanation: Latent heat\n\nText examples:")
    assert " a latent" in last.content


def test_in_the_peers_style_false_marks_are_drawn_with_its_seed() -> None:
    model = ScriptedModel(judging(lambda text: True))
    record = cats_and_stones(n_active=5, n_silent=5)
    score = scored(fuzz(model, prompt_style="neuronpedia"), record)
    chosen = sorted(random.Random(22).sample(range(5), 2))  # two tokens fire in each active text
    for row in judgements(score):
        if not row.truth:
            marked = "".join(f"<<{t}>>" if i in chosen else t for i, t in enumerate(row.example.tokens))
            assert row.text == marked.replace(">><<", "")


def test_all_23_examples_are_scored_though_five_go_into_a_question() -> None:
    model = ScriptedModel(judging(lambda text: "cat" in text))
    score = scored(detection(model), cats_and_stones(18, 5))
    assert [len(shown_examples(ask)) for ask in model.asked] == [5, 5, 5, 5, 3]
    assert len(score.rows) == 23
    assert all(row.correct for row in judgements(score))
    assert (score.value, score.status, score.metric) == (1.0, "ok", "balanced_accuracy")


def test_all_questions_are_in_flight_at_once() -> None:
    model = ScriptedModel(judging(lambda text: True))
    scored(detection(model))
    assert model.peak == 5


@pytest.mark.parametrize(
    ("fits", "value"),
    [
        (lambda text: "cat" in text, 1.0),
        (lambda text: True, 0.5),
        (lambda text: False, 0.5),
        (lambda text: "cat" not in text, 0.0),
        (lambda text: "cat" in text and any(mark in text for mark in "024"), 0.75),
    ],
)
def test_the_score_is_the_mean_of_what_was_found_and_what_was_left_out(fits: object, value: float) -> None:
    record = cats_and_stones(6, 2)
    score = scored(detection(ScriptedModel(judging(fits))), record)  # pyright: ignore[reportArgumentType]
    assert score.value == value


def test_a_right_explanation_finds_true_marks_among_false_ones() -> None:
    model = ScriptedModel(judging(lambda text: "<< cat" in text))
    for kind in ("fuzz", "fuzz-active"):
        score = scored(ClassificationScorer(model, kind, FuzzParameters()), cats_and_stones(6, 6))
        assert score.value == 1.0
        assert all("<<" in row.text and row.highlighted for row in judgements(score))
    assert "stone" not in "".join(row.text for row in judgements(score))


def test_a_text_that_is_strong_everywhere_is_not_marked_falsely() -> None:
    record = FeatureRecord(None, (), (Example((" cat",), (2.0,)), active(" a", " cat", " b", at=1)), ())
    score = scored(
        ClassificationScorer(ScriptedModel(judging(lambda text: "<< cat>>" in text)), "fuzz-active", FuzzParameters()),
        record,
    )
    assert [row.truth for row in judgements(score)].count(False) == 1


def test_a_refused_key_is_raised_and_is_no_score() -> None:
    for scorer in (detection, fuzz):
        with pytest.raises(Unauthorized):
            scored(scorer(ScriptedModel(in_turn("[1,1,1,1,1]", Unauthorized("the provider does not know the key")))))


def test_an_answer_that_can_not_be_read_fails_its_rows_and_only_those() -> None:
    right = judging(lambda text: "cat" in text)
    asked: list[Ask] = []

    def sometimes(question: Ask) -> str:
        asked.append(question)
        return "I would rather not." if len(asked) == 1 else right(question)

    score = scored(detection(ScriptedModel(sometimes)), cats_and_stones(18, 12))
    assert (score.status, sum(row.failed for row in score.rows), len(score.rows)) == ("partial", 5, 30)
    assert score.value == 1.0
    assert score.metrics["failure_rate"] == pytest.approx(1 / 6)
    assert score.usage.calls == 6


def test_a_score_that_lost_too_many_rows_is_invalid_and_no_number() -> None:
    score = scored(detection(ScriptedModel(in_turn("[1,1,1,1,1]", "no"))))
    assert (score.value, score.status) == (None, "invalid")
    assert score.reason is not None
    assert "answer" in score.reason


def test_a_score_is_the_same_again_and_differs_between_seeds_and_features() -> None:
    def texts(record: FeatureRecord, seed: int | None = None) -> list[str]:
        model = ScriptedModel(judging(lambda text: True))
        random.random(), torch.rand(1), np.random.random()
        return [row.text for row in judgements(scored(fuzz(model, seed=seed), record))]

    record = cats_and_stones()
    other = replace(record, name=FeatureName("demo", "3-res", 8))
    assert texts(record) == texts(record)
    assert texts(record, 1) == texts(record, 1)
    assert len({tuple(texts(record)), tuple(texts(record, 1)), tuple(texts(other))}) == 3


def test_no_global_random_state_is_touched() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # pyright: ignore
    for scorer in (detection, fuzz):
        scored(scorer(ScriptedModel(judging(lambda text: True))))
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # pyright: ignore


@pytest.mark.parametrize("record", [cats_and_stones(n_active=0), cats_and_stones(n_silent=0)])
def test_one_kind_of_example_alone_is_refused(record: FeatureRecord) -> None:
    for scorer in (detection, fuzz):
        with pytest.raises(InvalidRequest, match=r"at least one (active|silent)"):
            scored(scorer(ScriptedModel(in_turn("[]"))), record)


def test_no_explanation_has_no_score() -> None:
    with pytest.raises(InvalidRequest, match="no explanation"):
        scored(detection(ScriptedModel(in_turn("[]"))), explanation=" ")


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("[1,0]", [True, False]),
        ("Sure: [1, 0]. Also [0, 0]", [True, False]),
        ("[True,\n False]", [True, False]),
        ("[1,0,1]", None),
        ("[3, 7]", None),
        ('["1", "0"]', None),
        ("[1, nan]", None),
        ("[[1], 0]", None),
        ("1, 0", None),
        ("[1, 0", None),
    ],
)
def test_answers_are_zeros_and_ones_of_the_right_number(text: str, answers: list[bool] | None) -> None:
    assert read_answers(text, 2) == answers


def test_probabilities_are_of_one_against_zero_inside_the_list() -> None:
    def choice(text: str, **top: float) -> TokenChoice:
        return TokenChoice(text, 0.0, tuple((name.strip("_"), math.log(p)) for name, p in top.items()))

    tokens = [choice("1"), choice(" ["), choice("1", _1=0.6, _0=0.2, x=0.2), choice(", "), choice("0]", _0=0.9)]
    first, second = read_probabilities(tokens, 2) or [None, None]
    assert first == pytest.approx(1.0 / 1.2)  # the token itself counts by its own log-probability
    assert second == pytest.approx(0.0)
    assert read_probabilities(tokens, 3) is None


def test_log_probabilities_give_an_area_under_the_curve() -> None:
    def answer(question: Ask):
        assert question.top_logprobs == 5
        chances = [0.9 if "cat" in text else 0.2 for text in shown_examples(question)]
        digits = [TokenChoice("1", math.log(p), (("1", math.log(p)), ("0", math.log(1 - p)))) for p in chances]
        tokens = [TokenChoice("[", 0.0), *(t for digit in digits for t in (digit, TokenChoice(",", 0.0)))]
        return with_logprobs(str([1] * len(chances)), tokens)

    score = scored(detection(ScriptedModel(answer), log_probabilities=True))
    assert (score.value, score.metrics["auc"]) == (0.5, 1.0)
    assert {round(row.probability or 0, 6) for row in judgements(score)} == {0.9, 0.2}


def test_recall_is_given_for_each_part_of_the_range() -> None:
    score = scored(detection(ScriptedModel(judging(lambda text: "cat" in text and int(text.split()[-1]) % 3 == 1))))
    assert score.by_quantile == {1: 0.0, 2: 1.0, 3: 0.0}
