"""The shipped asset tells the assistant from the characters, on chats nobody has drawn before."""

import json

import numpy as np
import pytest
import torch

from core.catalogue.catalogue import find_model
from core.demo import ARTEFACTS, DEMO_MODEL_ID, corpus
from core.demo.chats import PERSONAS
from core.demo.model import load_model
from core.demo.persona import LAYER, TITLE, auc, labelled_chats
from core.demo.tokenizer import load_tokenizer
from core.engine.shape import ModelShape
from core.persona.asset import PersonaAsset, find_persona

FRESH_SEED = 31337
DOCUMENTS = 900


@pytest.fixture(scope="module")
def model():
    return load_model(ARTEFACTS / "model")


@pytest.fixture(scope="module")
def asset(model) -> PersonaAsset:
    found = find_persona((find_model(DEMO_MODEL_ID).id,), ModelShape.from_config(model.config))
    assert found.warnings == ()
    assert found.asset is not None
    return found.asset


def test_the_chats_of_the_corpus_say_who_answers():
    chats = labelled_chats(corpus.documents(FRESH_SEED, DOCUMENTS))
    assert {chat.persona for chat in chats} == set(PERSONAS)
    for chat in chats:
        written = "".join(f"<|{m.role}|>\n{m.content}<|end|>\n" for m in chat.messages)
        assert written.count("<|assistant|>") == sum(m.role == "assistant" for m in chat.messages)
        assert chat.messages[-1].role == "assistant"
    silent = [chat for chat in chats if chat.messages[0].role != "system"]
    assert silent
    assert {chat.persona for chat in silent} == {"assistant"}


def test_an_area_of_one_separates_and_of_a_half_does_not():
    low, high = np.array([0.0, 1.0]), np.array([2.0, 3.0])
    assert auc(high, low) == 1.0
    assert auc(low, high) == 0.0
    assert auc(low, low) == 0.5
    assert auc(np.array([1.0, 3.0]), np.array([2.0, 2.0])) == 0.5


def test_the_assistant_lies_above_every_character_on_fresh_chats(model, asset):
    """Read with plain `transformers`, projected by hand in float64."""
    tokenizer = load_tokenizer(ARTEFACTS / "model")
    chats = labelled_chats(corpus.documents(FRESH_SEED, DOCUMENTS))
    axis = asset.primary
    middle, centre, direction = (a.astype(np.float64) for a in (axis.scaler_mean, axis.mean, axis.components[0]))
    values: dict[str, list[float]] = {persona: [] for persona in PERSONAS}
    for chat in chats:
        ids, spans = [tokenizer.bos_token_id], []
        for message in chat.messages:
            start = len(ids)
            ids += tokenizer.encode(f"<|{message.role}|>\n{message.content}<|end|>\n", add_special_tokens=False)
            if message.role == "assistant":
                spans.append((start, len(ids)))
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[LAYER + 1][0].double().numpy()
        for start, end in spans:
            shifted = states[start:end].mean(0) - middle
            values[chat.persona].append(float((shifted / np.sqrt((shifted**2).sum()) - centre) @ direction))
    assistant = np.array(values.pop("assistant"))
    assert len(assistant) > 50
    assert auc(assistant, np.concatenate([*values.values()])) >= 0.95
    for persona, some in values.items():
        assert auc(assistant, np.array(some)) >= 0.9, persona


def test_the_asset_is_small_and_says_what_it_is(asset):
    files = sorted((ARTEFACTS / "persona").iterdir())
    assert {file.name for file in files} == {"persona.yaml", f"layer_{LAYER}.safetensors"}
    assert sum(file.stat().st_size for file in files) < 8192
    assert asset.titles == (TITLE,)
    assert not asset.blank_system_prompt
    assert asset.primary.layer == LAYER
    assert asset.primary.components.shape == (3, 128)


def test_the_measured_separation_is_that_of_the_shipped_file():
    measured = json.loads((ARTEFACTS / "measurements.json").read_text(encoding="utf-8"))["persona"]
    assert measured["layer"] == LAYER
    assert measured["auc"] >= 0.95
    means = {row["persona"]: row["mean"] for row in measured["by_persona"]}
    assert means.keys() == set(PERSONAS)
    assert means["assistant"] > max(mean for persona, mean in means.items() if persona != "assistant")
