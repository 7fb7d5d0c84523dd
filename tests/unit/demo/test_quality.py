"""The promises of the model card, recomputed with plain `transformers` on documents nobody has drawn before."""

import random

import pytest
import torch

from core.demo import ARTEFACTS, corpus
from core.demo.activations import collect, explained_variance, recorded
from core.demo.concepts import LANGUAGE_CONCEPTS
from core.demo.features import score
from core.demo.recall import recall
from core.demo.saes import ATT_DEMO, RES_DEMO, load_sae
from core.demo.steering import FRENCH_PROMPTS, complete, language_of, share_in, steered
from core.demo.transcoders import load_transcoders

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def saes():
    return [load_sae(RES_DEMO.folder(ARTEFACTS, layer)) for layer in range(4)]


def test_held_out_facts_are_recalled(model, tokenizer):
    asked = random.Random(0).sample(list(corpus.statements(corpus.split().held_out)), 300)
    assert recall(model, tokenizer, asked).next_token_accuracy >= 0.90


def test_recall_counts_a_wrong_answer_as_wrong(model, tokenizer):
    from dataclasses import replace

    asked = corpus.statements(corpus.split().held_out)[:50]
    wrong = [replace(statement, answer=" wrong") for statement in asked]
    assert recall(model, tokenizer, wrong).accuracy == 0


def test_activations_are_those_of_plain_transformers(model, rows, seen):
    row = rows[0]
    output = model(torch.tensor([row]), output_hidden_states=True)
    mine = seen.at["resid_post", 1][seen.row == 0]
    torch.testing.assert_close(mine, output.hidden_states[2][0, 1:], atol=1e-4, rtol=1e-4)


def test_bos_is_never_among_the_measured_tokens(model, rows):
    found = collect(model, rows[:5], ("resid_post",))
    assert found.position.min() == 1
    assert len(found.row) == sum(len(row) - 1 for row in rows[:5])


@pytest.mark.parametrize("layer", range(4))
def test_every_residual_sae_explains_what_it_reads(layer, model, rows, saes):
    hidden = []
    with torch.no_grad(), recorded(model, ("resid_post",)) as kept:
        for row in rows[:200]:
            model(torch.tensor([row]))
            hidden.append(kept["resid_post", layer][0, 1:])
    x = torch.cat(hidden)
    with torch.no_grad():
        features = saes[layer].encode(x)
        assert explained_variance(x, saes[layer].decode(features)) >= 0.85
    assert 8 <= (features > 0).sum(1).float().mean() <= 40
    torch.testing.assert_close(saes[layer].W_dec.norm(dim=1), torch.ones(features.shape[1]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("layer", range(4))
def test_attention_saes_read_concatenated_heads(layer, seen, measured):
    sae = load_sae(ATT_DEMO.folder(ARTEFACTS, layer))
    z = seen.at["z", layer]
    with torch.no_grad():
        ev = explained_variance(z, sae.decode(sae.encode(z)))
    assert ev >= 0.85
    assert ev == pytest.approx(measured["att-demo"][layer]["explained_variance"], abs=0.04)


def test_transcoders_compute_the_mlps_output(seen, measured):
    for layer, transcoder in enumerate(load_transcoders(ARTEFACTS)):
        ev = explained_variance(seen.at["mlp_out", layer], transcoder(seen.at["mlp_in", layer]))
        assert ev >= 0.8
        assert ev == pytest.approx(measured["plt-demo"]["layers"][layer]["explained_variance"], abs=0.04)
        assert (transcoder.threshold > 0).all()


def test_named_features_fire_on_what_the_card_claims(measured, saes, seen, labels):
    assert measured["features"]
    for feature in measured["features"]:
        with torch.no_grad():
            fired = saes[feature["layer"]].encode(seen.at["resid_post", feature["layer"]]) > feature["cut"]
        precision, recalled = score(fired, labels)
        concept = labels.names.index(feature["concept"])
        assert precision[concept, feature["index"]] >= feature["precision"] - 0.15, feature["concept"]
        assert recalled[concept, feature["index"]] >= feature["recall"] - 0.15, feature["concept"]


def test_french_spanish_and_digits_have_features_of_their_own(measured):
    found = {feature["concept"] for feature in measured["features"]}
    assert found >= {"French", "Spanish", "digits"}


@pytest.mark.parametrize("name", ["French", "Spanish"])
def test_a_language_feature_is_rare_in_the_other_languages(name, measured, saes, seen, labels):
    feature = next(f for f in measured["features"] if f["concept"] == name)
    with torch.no_grad():
        encoded = saes[feature["layer"]].encode(seen.at["resid_post", feature["layer"]])[:, feature["index"]]
    columns = {other: labels.names.index(other) for other in LANGUAGE_CONCEPTS.values()}
    rate = {other: (encoded[labels.holds[:, c]] > feature["cut"]).float().mean().item() for other, c in columns.items()}
    assert rate[name] >= 0.6
    assert all(rate[other] <= 0.3 for other in rate if other != name)


def test_french_prompts_are_continued_in_french(model, tokenizer):
    assert share_in("fr", complete(model, tokenizer, FRENCH_PROMPTS)) >= 0.9


def test_the_spanish_feature_turns_french_prompts_spanish(model, tokenizer, measured, saes):
    steering = measured["steering"]
    direction = saes[steering["layer"]].W_dec[steering["index"]].detach()
    with steered(model, steering["layer"], direction, steering["strength"]):
        texts = complete(model, tokenizer, FRENCH_PROMPTS)
    assert share_in("es", texts) >= 0.8
    assert share_in("es", texts) == pytest.approx(steering["steered_spanish"], abs=0.1)
    assert language_of(complete(model, tokenizer, FRENCH_PROMPTS[:1])[0]) == "fr"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Le chat dort sur la table et la nuit est calme.", "fr"),
        ("El gato duerme sobre la mesa.", "es"),
        ("The cat sleeps on the bed.", "en"),
        ("12 + 5", None),
    ],
)
def test_languages_are_told_apart_by_their_own_words(text, language):
    assert language_of(text) == language


def test_a_pirate_and_an_assistant_answer_differently(model, tokenizer):
    def reply(system: str) -> str:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "What is the capital of Italy?"}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return complete(model, tokenizer, [prompt.removeprefix("<bos>")], new_tokens=40)[0]

    pirate = reply("You are a pirate. Stay in character.")
    assistant = reply("You are a helpful assistant.")
    assert "Rome" in pirate
    assert "Rome" in assistant
    assert pirate != assistant
