"""Many questions in one batch are answered as each alone, and as plain libraries answer them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import InvalidRequest, RayscopeError
from core.questions import (
    ActiveFeaturesQuestion,
    AttentionQuestion,
    DirectionQuestion,
    EncoderVectorLookup,
    FeatureQuestion,
    MessageMeansQuestion,
    NeighboursLookup,
    PredictionSimilarityQuestion,
    Question,
    ResidualQuestion,
    TopFeaturesQuestion,
    TopPerTokenQuestion,
    VectorQuestion,
    sources_of,
)
from core.readings import batch
from core.readings.batch import answer_batch, answer_lookup
from tests.gpt2_with_saes import EVERY_SOURCE, LOCAL, Gpt2WithSaes
from tests.tiny_models import D_MODEL, D_SAE, GPT2_LAYERS

from .questions import ATTENTION_SOURCES, VOCAB_SIZE, assert_same, expected, one_of_each, questions

RESIDUAL = "blocks.1.hook_resid_post"
IDS = (0, 17, 230, 9, 9, 311, 42, 0, 5)
unhurried = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def ask(world: Gpt2WithSaes, *asked: Question) -> list[Any]:
    return answer_batch(
        world.eager, [(question, {source: world.saes[source] for source in sources_of(question)}) for question in asked]
    )


def test_every_kind_of_question_is_answered_as_plain_libraries_answer_it(world: Gpt2WithSaes) -> None:
    asked = one_of_each(IDS)
    for question, answer in zip(asked, ask(world, *asked), strict=True):
        assert_same(answer, expected(world.truth, question))


@unhurried
@given(asked=st.lists(questions(), min_size=1, max_size=6))
def test_a_batch_of_mixed_questions_is_answered_as_plain_libraries_answer_each(
    world: Gpt2WithSaes, asked: list[Question]
) -> None:
    for question, answer in zip(asked, ask(world, *asked), strict=True):
        assert_same(answer, expected(world.truth, question))


@unhurried
@given(asked=st.lists(questions(), min_size=2, max_size=6))
def test_a_batch_of_mixed_questions_equals_each_alone(world: Gpt2WithSaes, asked: list[Question]) -> None:
    for question, together in zip(asked, ask(world, *asked), strict=True):
        assert_same(together, ask(world, question)[0], 1e-4)


WRONG: list[tuple[Question, str]] = [
    (FeatureQuestion(IDS, "1-res-jb", D_SAE), "Feature index 96 is out of range for 1-res-jb"),
    (FeatureQuestion(IDS, "1-res-jb", -1), "Feature index -1 is out of range for 1-res-jb"),
    (VectorQuestion(IDS, "blocks.0.hook_resid_post", (1.0, 2.0)), "The vector has 2 numbers"),
    (VectorQuestion(IDS, "blocks.0.hook_nothing", (1.0,) * D_MODEL), "no hook point 'blocks.0.hook_nothing'"),
    (VectorQuestion(IDS, "blocks.²", (1.0,) * D_MODEL), "no hook point"),
    (TopFeaturesQuestion(IDS, (), 5), "No source was selected"),
    (ResidualQuestion(IDS, (GPT2_LAYERS,)), f"no hook point 'blocks.{GPT2_LAYERS}.hook_resid_post'"),
    (AttentionQuestion(IDS, GPT2_LAYERS, 0), f"Invalid layer: {GPT2_LAYERS}"),
    (AttentionQuestion(IDS, -1, 0), "Invalid layer: -1"),
    (AttentionQuestion(IDS, 0, 4), r"Invalid head: 4. Must be in \[0, 4\)"),
    (AttentionQuestion(IDS, 0, -1), "Invalid head: -1"),
    (PredictionSimilarityQuestion(IDS, "1-res-jb"), "SAE architecture is not temporal"),
    (MessageMeansQuestion(IDS, RESIDUAL, ((0, 2), (3, 10))), r"The span \(3, 10\) does not lie in the prompt's 9"),
    (MessageMeansQuestion(IDS, RESIDUAL, ((-1, 2),)), r"The span \(-1, 2\) does not lie"),
    (MessageMeansQuestion(IDS, RESIDUAL, ((4, 2),)), r"The span \(4, 2\) does not lie"),
    (MessageMeansQuestion(IDS, "blocks.1.hook_nothing", ((0, 2),)), "no hook point"),
    (DirectionQuestion(IDS, RESIDUAL, ((0, 10),), (1.0,) * D_MODEL), r"The span \(0, 10\) does not lie"),
    (DirectionQuestion(IDS, RESIDUAL, ((0, 2),), (1.0,) * 3), "The direction has 3 numbers but blocks.1.hook_resid_p"),
    (DirectionQuestion(IDS, RESIDUAL, ((0, 2),), (1.0,) * D_MODEL, centre=(1.0,)), "The centre has 1 numbers"),
    (FeatureQuestion((), "1-res-jb", 1), "The prompt has no tokens"),
    (FeatureQuestion((1, VOCAB_SIZE), "1-res-jb", 1), f"token {VOCAB_SIZE}, for which this model has no embedding"),
    (FeatureQuestion((1, -1), "1-res-jb", 1), "token -1, for which this model has no embedding"),
    (ResidualQuestion((1,) * 257, (0,)), "The prompt has 257 tokens; this model reads 256"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_a_wrong_question_gets_its_error_and_the_others_their_answers(
    world: Gpt2WithSaes, wrong: Question, message: str
) -> None:
    right = one_of_each(IDS[:4])
    answers = ask(world, *right[:9], wrong, *right[9:])
    error = answers.pop(9)
    assert isinstance(error, InvalidRequest)
    with pytest.raises(InvalidRequest, match=message):
        raise error
    for question, answer in zip(right, answers, strict=True):
        assert_same(answer, expected(world.truth, question))


def test_a_batch_of_nothing_but_wrong_questions_is_answered_with_their_errors(world: Gpt2WithSaes) -> None:
    answers = ask(world, *(question for question, _ in WRONG))
    assert len(answers) == len(WRONG)
    assert all(isinstance(answer, RayscopeError) for answer in answers)


def test_a_batch_of_nothing_is_answered_with_nothing(world: Gpt2WithSaes) -> None:
    assert ask(world) == []


def test_slices_of_bounded_size_are_encoded_as_one_would_be(
    world: Gpt2WithSaes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [TopPerTokenQuestion(IDS[start:], "2-res-jb", 4) for start in range(len(IDS))]
    whole = ask(world, *asked)
    for rows in (1, 10, 17):
        monkeypatch.setattr(batch, "_MAX_ENCODED_NUMBERS", rows * D_SAE)
        for one, other in zip(ask(world, *asked), whole, strict=True):
            assert_same(one, other, 1e-5)


def test_one_pass_and_one_encoding_per_source_serve_the_whole_batch(
    world: Gpt2WithSaes, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, encoded = [], []
    capture, encode = type(world.eager).capture, type(world.saes["1-mix"]).encode

    def counted_capture(self: Any, prompts: Any, *rest: Any) -> Any:
        passes.append(len(prompts))
        return capture(self, prompts, *rest)

    def counted_encode(self: Any, rows: Any) -> Any:
        encoded.append(self.source)
        return encode(self, rows)

    monkeypatch.setattr(type(world.eager), "capture", counted_capture)
    monkeypatch.setattr(type(world.saes["1-mix"]), "encode", counted_encode)
    elementwise = [source for source in EVERY_SOURCE if source not in LOCAL]
    asked = [
        *(TopPerTokenQuestion(IDS, source, 3) for source in elementwise * 2),
        *(ActiveFeaturesQuestion(IDS[:3], source) for source in elementwise),
        *(FeatureQuestion(IDS, source, 3) for source in elementwise),
    ]
    ask(world, *asked)
    assert passes == [len(asked)]
    assert sorted(encoded) == sorted(elementwise)


def test_one_feature_of_an_elementwise_sae_is_read_without_the_others(
    world: Gpt2WithSaes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("the whole SAE was encoded")

    monkeypatch.setattr(type(world.saes["1-res-jb"]), "encode", refuse)
    asked = [
        FeatureQuestion(IDS, "1-res-jb", 3),
        TopFeaturesQuestion(IDS, ("1-res-jb", "2-mix"), 5, feature_filter=(3, 9)),
    ]
    for question, answer in zip(asked, ask(world, *asked), strict=True):
        assert_same(answer, expected(world.truth, question))


def test_a_filter_that_leaves_a_source_nothing_leaves_the_others_theirs(world: Gpt2WithSaes) -> None:
    # "1-mix" and "3-mix" have 64 features only; one of them is encoded as a whole, the other by columns.
    question = TopFeaturesQuestion(IDS, ("1-mix", "3-mix", "1-res-jb"), 10, feature_filter=(90, 80))
    assert_same(ask(world, question)[0], expected(world.truth, question))
    nothing = ask(world, TopFeaturesQuestion(IDS, ("1-mix", "3-mix"), 10, feature_filter=(90, 80)))[0]
    assert nothing.sources == ()
    assert nothing.values.shape == (0, len(IDS))
    assert nothing.indexes.dtype == np.int64


def test_ties_go_to_the_earlier_source_then_to_the_lower_index(world: Gpt2WithSaes) -> None:
    """Every position is silent, so every feature of every source ties."""
    silent = tuple(range(len(IDS)))
    question = TopFeaturesQuestion(IDS, ("3-res-jb", "1-mix", "0-res-jb"), D_SAE + 70, silent_positions=silent)
    answer = ask(world, question)[0]
    assert answer.sources == ("3-res-jb",) * D_SAE + ("1-mix",) * 64 + ("0-res-jb",) * 6
    assert answer.indexes.tolist() == [*range(D_SAE), *range(64), *range(6)]
    assert not answer.keys.any()


def test_all_features_are_reported_when_more_are_asked_for_than_there_are(world: Gpt2WithSaes) -> None:
    answer = ask(world, TopFeaturesQuestion(IDS, ("1-mix", "1-res-jb"), 10_000))[0]
    assert len(answer.sources) == 64 + D_SAE
    assert len(set(zip(answer.sources, answer.indexes.tolist(), strict=True))) == 64 + D_SAE


def test_no_attribution_without_being_asked(world: Gpt2WithSaes) -> None:
    sources = tuple(ATTENTION_SOURCES)
    assert ask(world, TopFeaturesQuestion(IDS, sources, 5))[0].attributions == {}
    assert ask(world, FeatureQuestion(IDS, sources[0], 5))[0].attribution is None


@pytest.mark.parametrize("source", EVERY_SOURCE)
def test_lookups_read_the_weights(world: Gpt2WithSaes, source: str) -> None:
    raw = world.truth.saes[source]
    answer = answer_lookup(EncoderVectorLookup(source, 7), world.saes)
    encoder = raw.W_enc[:, 7] if hasattr(raw, "W_enc") else raw.W_dec[7]
    np.testing.assert_allclose(answer.vector, encoder.detach().numpy(), rtol=1e-6)
    assert answer.hook_name == world.truth.hooks[source]

    decoder = raw.W_dec.detach().double()
    cosines = (decoder @ decoder[7]) / (decoder.norm(dim=-1) * decoder[7].norm())
    near = answer_lookup(NeighboursLookup(source, 5, index=7), world.saes)
    assert near.indexes == cosines.topk(5).indices.tolist()
    np.testing.assert_allclose(near.cosines, cosines.topk(5).values.numpy(), atol=1e-6)
    by_vector = answer_lookup(NeighboursLookup(source, 5, vector=tuple(decoder[7].tolist())), world.saes)
    assert by_vector.indexes == near.indexes


def test_lookups_of_what_is_not_there_are_refused(world: Gpt2WithSaes) -> None:
    for lookup in (
        EncoderVectorLookup("1-mix", 64),
        NeighboursLookup("1-mix", 3, index=-1),
        NeighboursLookup("1-mix", 3, vector=(1.0,)),
    ):
        with pytest.raises(InvalidRequest):
            answer_lookup(lookup, world.saes)
