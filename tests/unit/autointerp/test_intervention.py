"""Intervention: what a feature makes its model write is told by a right explanation and by no wrong one."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from core.autointerp.examples import Example, FeatureName, FeatureRecord
from core.autointerp.language_model import Ask
from core.autointerp.results import Score
from core.autointerp.scorers.intervention import InterventionParameters, InterventionScorer, read_choice
from core.autointerp.scorers.rows import SteeredTold
from core.autointerp.subject import Subject, divergence
from core.autointerp.subject_engine import open_subject
from core.deadline import Deadline
from core.demo import DEMO_MODEL_ID
from core.demo.steering import FRENCH_PROMPTS, language_of
from core.errors import InvalidRequest, NotFound, Unauthorized

from .scripted import ScriptedModel, cats_and_stones, in_turn, silent

SPANISH = FeatureName(DEMO_MODEL_ID, "2-res-demo", 2)


def soon() -> Deadline:
    return Deadline.after(300)


@dataclass
class Meowing:
    """A model that writes of cats once it is pushed hard enough."""

    nats: Callable[[float], float] = lambda strength: strength / 8
    needs: float = 1.0
    pushed: list[float] = field(default_factory=list)
    tried: list[float] = field(default_factory=list)

    async def complete(
        self, feature: FeatureName, prompts: Sequence[str], strength: float, max_tokens: int, deadline: Deadline
    ) -> list[str]:
        self.pushed.append(strength)
        return [" meow" if strength >= self.needs else f" and so on {prompt}" for prompt in prompts]

    async def divergences(
        self, feature: FeatureName, prompts: Sequence[str], strength: float, deadline: Deadline
    ) -> list[float]:
        self.tried.append(strength)
        return [self.nats(strength)] * len(prompts)


def shown(question: Ask) -> tuple[str, list[str]]:
    """The explanation and the two continuations."""
    _, _, rest = question.messages[-1].content.partition("Feature: ")
    explanation, _, rest = rest.partition("\n\nText: ")
    return explanation, rest.split("\n\nContinuation 1:")[1].split("\n\nContinuation 2:")


def judge(question: Ask) -> str:
    """Looks for cats if it is told of cats, and always says 1 if not."""
    explanation, texts = shown(question)
    found = [text for text in texts if "meow" in text] if explanation == "cats" else texts[:1]
    return f"It is plain.\n[ANSWER]: {texts.index(found[0]) + 1}"


def scored(
    subject: Subject,
    explanation: str = "cats",
    answer: Any = judge,
    record: FeatureRecord | None = None,
    **parameters: object,
) -> tuple[Score, ScriptedModel]:
    model = ScriptedModel(answer)
    scorer = InterventionScorer(model, subject, InterventionParameters.model_validate(parameters), soon())
    return asyncio.run(scorer.score(record or cats_and_stones(6, 40), explanation)), model


def test_a_right_explanation_tells_every_pair_and_a_wrong_one_half() -> None:
    score, model = scored(Meowing(), n_prompts=40)
    assert (score.value, score.metric, score.status, len(score.rows)) == (1.0, "accuracy", "ok", 40)
    assert score.interval is not None
    assert score.interval.low > 0.5
    assert model.peak == 40
    wrong, _ = scored(Meowing(), "stones", n_prompts=40)
    assert wrong.value is not None
    assert 0.25 < wrong.value < 0.75  # it always says 1, and the order is drawn
    for row in wrong.rows:
        assert isinstance(row, SteeredTold)
        assert (row.plain, row.pushed) == (f" and so on {row.prompt}", " meow")


def test_the_order_and_the_prompts_are_the_seeds_and_nothing_else() -> None:
    first, again, other = (scored(Meowing(), n_prompts=10, seed=seed) for seed in (1, 1, 2))
    assert first[0] == again[0]
    assert [ask.messages for ask in first[1].asked] == [ask.messages for ask in again[1].asked]
    assert [ask.messages for ask in first[1].asked] != [ask.messages for ask in other[1].asked]


@pytest.mark.parametrize("nats", [lambda s: s / 8, lambda s: (s / 300) ** 2, lambda s: 5 * s])
def test_the_strength_is_found_that_moves_the_next_token_as_far_as_asked(nats: Callable[[float], float]) -> None:
    subject = Meowing(nats, needs=0.0001)
    score, _ = scored(subject, divergence=2.0, n_prompts=5)
    assert score.metrics["divergence_nats"] == pytest.approx(2.0, rel=0.1)
    assert nats(score.metrics["strength"]) == score.metrics["divergence_nats"]
    assert subject.pushed == [0.0, score.metrics["strength"]]
    assert len(subject.tried) < 20


def test_a_feature_that_moves_nothing_has_no_score() -> None:
    subject = Meowing(lambda strength: 0.01)
    score, model = scored(subject, max_strength=64.0)
    assert (score.value, score.status, model.asked) == (None, "invalid", [])
    assert score.reason is not None
    assert "0.01" in score.reason
    assert max(subject.tried) == 64.0


def test_a_given_strength_is_used_and_continuations_that_stay_the_same_are_not_asked_about() -> None:
    subject = Meowing(needs=10.0)
    score, model = scored(subject, strength=5.0)
    assert (score.value, score.status, model.asked) == (None, "invalid", [])
    assert score.metrics["unchanged"] == 1.0
    assert score.reason is not None
    assert "as they were" in score.reason
    assert subject.tried == [5.0]
    assert scored(Meowing(needs=5.0), strength=5.0)[0].value == 1.0


def test_answers_that_can_not_be_read_are_failed_rows_and_a_refused_key_is_an_error() -> None:
    score, _ = scored(Meowing(), answer=in_turn("both", "[ANSWER]: 1"), n_prompts=10)
    assert (score.status, score.metrics["failure_rate"]) == ("partial", pytest.approx(0.1))
    assert scored(Meowing(), answer=in_turn("neither"))[0].value is None
    with pytest.raises(Unauthorized):
        scored(Meowing(), answer=in_turn(Unauthorized("the provider does not know the key")))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[ANSWER]: 2", 2),
        ("Not [ANSWER]: 1 but\n[ANSWER]: **2**", 2),
        (" 1\n", 1),
        ("[ANSWER]: 12", None),
        ("[ANSWER]: 3", None),
        ("1 or 2", None),
        ("", None),
    ],
)
def test_an_answer_names_one_of_two(text: str, named: int | None) -> None:
    assert read_choice(text) == named


def test_prompts_are_beginnings_of_silent_texts_or_what_stands_before_the_feature_fires() -> None:
    record = FeatureRecord(
        FeatureName("m", "0-s", 1),
        (),
        (Example((" the", " old", " cat", " sat"), (0.0, 0.0, 3.0, 1.0)), Example((" cat", " sat"), (2.0, 0.0))),
        (silent("One", " two", " three"), silent("One", " two", " four")),
    )
    score, _ = scored(Meowing(), record=record, prompt_tokens=2)
    assert [row.prompt for row in score.rows if isinstance(row, SteeredTold)] == ["One two"]
    score, _ = scored(Meowing(), record=record, prompts="active", prompt_tokens=1)
    assert [row.prompt for row in score.rows if isinstance(row, SteeredTold)] == [" old"]
    with pytest.raises(InvalidRequest, match="which it is"):
        scored(Meowing(), record=FeatureRecord(None, (), record.test, record.silent))
    with pytest.raises(InvalidRequest, match="silent text"):
        scored(Meowing(), record=FeatureRecord(record.name, (), record.test))


def test_a_divergence_is_kullback_and_leiblers_and_of_a_part_never_more() -> None:
    stream = np.random.default_rng(3)
    plain, steered = (stream.dirichlet(np.ones(50)) for _ in range(2))
    whole = float((plain * np.log(plain / steered)).sum())
    columns = [{at: math.log(chance) for at, chance in enumerate(side)} for side in (plain, steered)]
    assert divergence(*columns) == pytest.approx(whole)
    parts: list[float] = []
    for kept in (20, 35, 45):
        tops = [dict(sorted(side.items(), key=lambda one: -one[1])[:kept]) for side in columns]
        parts.append(divergence(tops[0], tops[1]))
    assert 0 < parts[0] <= parts[1] <= parts[2] <= whole
    assert divergence(columns[0], columns[0]) == 0.0


def knows_spanish(question: Ask) -> str:
    """A judge that tells languages apart and nothing else."""
    explanation, texts = shown(question)
    wanted = {"Spanish text": "es", "French text": "fr"}[explanation]
    fitting = [at for at, text in enumerate(texts, 1) if language_of(text) == wanted]
    return f"[ANSWER]: {fitting[0] if len(fitting) == 1 else 1}"


@pytest.fixture(scope="module")
def demo_scores() -> dict[str, Score]:
    """The demo's Spanish feature on French prompts, explained rightly and wrongly."""
    record = FeatureRecord(SPANISH, (), (), tuple(silent(text) for text in FRENCH_PROMPTS))
    parameters = InterventionParameters(n_prompts=24, new_tokens=20, divergence=3.0)

    async def run() -> dict[str, Score]:
        async with open_subject(DEMO_MODEL_ID, ["res-demo"]) as subject:
            scorer = InterventionScorer(ScriptedModel(knows_spanish), subject, parameters, soon())
            return {text: await scorer.score(record, text) for text in ("Spanish text", "French text")}

    return asyncio.run(run())


def test_the_demos_spanish_feature_is_told_by_its_right_explanation(demo_scores: dict[str, Score]) -> None:
    right, wrong = demo_scores["Spanish text"], demo_scores["French text"]
    assert right.status in ("ok", "partial")
    assert right.value is not None
    assert wrong.value is not None
    assert right.value >= 0.8
    assert wrong.value <= 0.5
    assert right.metrics["divergence_nats"] == pytest.approx(3.0, rel=0.1)
    assert [row.pushed for row in right.rows if isinstance(row, SteeredTold)] == [
        row.pushed for row in wrong.rows if isinstance(row, SteeredTold)
    ]


def test_a_subject_leaves_the_model_alone_at_no_strength_and_knows_its_features() -> None:
    async def run() -> None:
        async with open_subject(DEMO_MODEL_ID, ["res-demo"]) as subject:
            prompts = ["La capitale de la France est", "Le contraire de petit est"]
            plain = await subject.complete(SPANISH, prompts, 0.0, 3, soon())
            assert plain[0].startswith(" Paris")
            assert plain[1].startswith(" grand")
            assert await subject.divergences(SPANISH, prompts, 0.0, soon()) == [0.0, 0.0]
            weak, strong = [await subject.divergences(SPANISH, prompts, s, soon()) for s in (2.0, 16.0)]
            assert all(0 < some < more for some, more in zip(weak, strong, strict=True))
            with pytest.raises(NotFound):
                await subject.complete(FeatureName(DEMO_MODEL_ID, "9-res-demo", 2), prompts, 1.0, 3, soon())

    asyncio.run(run())
