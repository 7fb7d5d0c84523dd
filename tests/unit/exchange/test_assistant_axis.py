"""The assistant axis of written chats: what is asked, what is answered, against plain `transformers` in float64."""

from typing import Any

import numpy as np
import pytest
import torch

from core.catalogue.catalogue import find_model
from core.catalogue.description import Limits, ModelDescription
from core.chat_template import Message
from core.demo import ARTEFACTS, DEMO_MODEL_ID
from core.demo.chats import REPLIES, SMALL_TALK, SYSTEM
from core.engine.model import EagerModel
from core.errors import InvalidRequest
from core.exchange.assistant_axis import axis_questions, axis_reply
from core.exchange.served import ServedModel
from core.persona.asset import PersonaAsset, find_persona
from core.persona.projection import Axis
from core.prompts import PromptTokenizer
from core.questions import MessageMeansAnswer, MessageMeansQuestion
from core.readings.batch import answer_batch
from core.wire.steering import NPSteerType
from core.wire.steering_chat import SteerCompletionChatResponse

STEERED, DEFAULT = NPSteerType.STEERED, NPSteerType.DEFAULT
LAYER, WIDTH = 1, 128
TITLE = "- Role-playing ↔️ + Assistant-like"
PROMPT = [
    Message("system", "You are a pirate. Stay in character."),
    Message("user", "What is the capital of Italy?"),
    Message("assistant", "Arr, matey! It is Rome."),
    Message("user", "Hello!"),
]
WRITTEN = {STEERED: "Hello! How can I help you?", DEFAULT: "Ahoy! Welcome aboard my ship!"}


@pytest.fixture(scope="module")
def eager() -> EagerModel:
    return EagerModel.load(str(ARTEFACTS / "model"), device="cpu")


@pytest.fixture(scope="module")
def served(eager: EagerModel) -> ServedModel:
    description = ModelDescription(
        names=find_model(DEMO_MODEL_ID),
        weights=DEMO_MODEL_ID,
        revision=None,
        dtype="float32",
        device="cpu",
        shape=eager.shape,
        limits=Limits(token_limit=200, generation_limit=120, batch_limit=4, max_num_results=10),
        runners=(),
    )
    return ServedModel(description, PromptTokenizer.load(str(ARTEFACTS / "model")))


@pytest.fixture(scope="module")
def asset() -> PersonaAsset:
    vectors = np.random.default_rng(1).normal(size=(5, WIDTH)).astype(np.float32)
    return PersonaAsset((TITLE,), False, (Axis(LAYER, "l2-mean", vectors[0], vectors[1] / 50, vectors[2:]),))


def by_hand(asset: PersonaAsset, mean: np.ndarray) -> float:
    axis = asset.primary
    shifted = mean.astype(np.float64) - axis.scaler_mean
    return float((shifted / np.sqrt((shifted**2).sum()) - axis.mean) @ axis.components[0].astype(np.float64))


def hugging_face_means(text: str) -> np.ndarray:
    """Mean residual of both assistant turns, `[2, d]`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ARTEFACTS / "model")
    model = AutoModelForCausalLM.from_pretrained(ARTEFACTS / "model", dtype=torch.float64).eval()
    ids, spans = [tokenizer.bos_token_id], []
    for message in [*PROMPT, Message("assistant", text)]:
        start = len(ids)
        ids += tokenizer.encode(f"<|{message.role}|>\n{message.content}<|end|>\n", add_special_tokens=False)
        if message.role == "assistant":
            spans.append((start, len(ids)))
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[LAYER + 1][0].numpy()
    return np.stack([states[start:end].mean(0) for start, end in spans])


def answers(eager: EagerModel, questions: list[Any]) -> list[MessageMeansAnswer]:
    return answer_batch(eager, [(question, {}) for question in questions])


def test_every_turn_of_every_text_is_projected_as_plain_transformers_sees_it(
    eager: EagerModel, served: ServedModel, asset: PersonaAsset
) -> None:
    asked = axis_questions(served, asset, PROMPT, WRITTEN)
    found = axis_reply(asked, answers(eager, asked.questions))
    assert found is not None
    assert [(one.type, one.pc_titles) for one in found] == [(STEERED, [TITLE]), (DEFAULT, [TITLE])]
    for one, text in zip(found, WRITTEN.values(), strict=True):
        assert one.turns is not None
        assert [turn.snippet for turn in one.turns] == ["Arr, matey! It is Rome.", text]
        assert [turn.pc_values_post_cap for turn in one.turns] == [None, None]
        for turn, mean in zip(one.turns, hugging_face_means(text), strict=True):
            assert turn.pc_values == {TITLE: pytest.approx(by_hand(asset, mean), abs=1e-4)}


def test_what_the_engine_pooled_under_steering_stands_beside_it_for_the_steered_text_alone(
    eager: EagerModel, served: ServedModel, asset: PersonaAsset
) -> None:
    asked = axis_questions(served, asset, PROMPT, WRITTEN)
    pooled = np.random.default_rng(2).normal(size=(2, WIDTH)).astype(np.float32)
    found = axis_reply(asked, answers(eager, asked.questions), {STEERED: pooled})
    plain = axis_reply(asked, answers(eager, asked.questions))
    assert found is not None
    assert plain is not None
    steered, default = found
    assert default == plain[1]
    assert steered.turns is not None
    assert plain[0].turns is not None
    assert [turn.pc_values for turn in steered.turns] == [turn.pc_values for turn in plain[0].turns]
    values = [turn.pc_values_post_cap for turn in steered.turns]
    assert values == [{TITLE: pytest.approx(by_hand(asset, mean))} for mean in pooled]


def test_a_text_ends_with_its_turn_marker(served: ServedModel, asset: PersonaAsset) -> None:
    plain = axis_questions(served, asset, PROMPT, {DEFAULT: "Ahoy!"})
    marked = axis_questions(served, asset, PROMPT, {DEFAULT: "Ahoy!<|end|>\n<|user|>\nMore"})
    assert marked.questions == plain.questions
    assert marked.watched == plain.watched


def test_a_text_that_fills_the_budget_is_read_as_far_as_the_budget_goes(
    served: ServedModel, asset: PersonaAsset
) -> None:
    (question,) = axis_questions(served, asset, PROMPT, {DEFAULT: "Ahoy! " * 200}).questions
    assert isinstance(question, MessageMeansQuestion)
    assert len(question.tokens) == 119
    assert question.spans[-1][1] == 119


def test_a_conversation_that_the_template_refuses_has_no_axis_and_does_not_fail(
    served: ServedModel, asset: PersonaAsset
) -> None:
    refused = [Message("tool", "42")]
    with pytest.raises(InvalidRequest):
        _render(served, refused)
    asked = axis_questions(served, asset, refused, WRITTEN)
    assert asked.questions == []
    assert axis_reply(asked, []) is None


def _render(served: ServedModel, messages: list[Message]) -> None:
    from core.chat import render_chat

    render_chat(served.tokenizer, messages)


def test_the_reply_has_the_published_names(eager: EagerModel, served: ServedModel, asset: PersonaAsset) -> None:
    asked = axis_questions(served, asset, PROMPT, {DEFAULT: "Ahoy!"})
    reply = axis_reply(asked, answers(eager, asked.questions))
    body = SteerCompletionChatResponse.model_validate(
        {"outputs": [], "input": {"chat_template": [], "raw": ""}, "assistant_axis": reply}
    ).model_dump(by_alias=True)
    (axis,) = body["assistantAxis"]
    assert axis.keys() == {"type", "pcTitles", "turns"}
    assert axis["turns"][0].keys() == {"pcValues", "pcValuesPostCap", "snippet"}


@pytest.mark.parametrize("language", [0, 1, 2])
def test_on_the_shipped_axis_a_pirate_lies_below_the_assistant(
    eager: EagerModel, served: ServedModel, language: int
) -> None:
    shipped = find_persona((DEMO_MODEL_ID,), eager.shape).asset
    assert shipped is not None
    values: dict[str, float] = {}
    for persona in ("assistant", "pirate"):
        prompt = [
            Message("system", SYSTEM[persona][language]),
            Message("user", SMALL_TALK["who"][language]),
        ]
        asked = axis_questions(served, shipped, prompt, {DEFAULT: REPLIES[persona]["who"][language]})
        found = axis_reply(asked, answers(eager, asked.questions))
        assert found is not None
        (turn,) = found[0].turns or []
        (values[persona],) = (turn.pc_values or {}).values()
    assert values["assistant"] > 0 > values["pirate"]
