"""Surprisal and simulation by log-probabilities: figures of a real model behind a provider, and where they are read."""

import asyncio
from collections.abc import Sequence
from math import log
from typing import Any

import pytest

from core.autointerp.examples import Example, FeatureName, FeatureRecord
from core.autointerp.language_model import Ask, Reply, TokenChoice, Usage
from core.autointerp.providers.model import ProviderModel
from core.autointerp.providers.openai import OpenAIEndpoint, open_client
from core.autointerp.providers.rate import RateGate, RateLimits
from core.autointerp.scorers.expected import simulating_by_chance
from core.autointerp.scorers.prompt_tokens import tokens_of
from core.autointerp.scorers.rows import Simulated, Surprise
from core.autointerp.scorers.simulation import SimulationParameters, SimulationScorer
from core.autointerp.scorers.surprisal import SurprisalParameters, SurprisalScorer
from core.errors import InvalidRequest, ProviderRejected
from core.outbound_urls import UrlPolicy

from . import fake_provider as fake
from .fake_provider import Call, FakeProvider
from .scripted import ScriptedModel, active, cats_and_stones, in_turn, silent

TEXTS = FeatureRecord(
    FeatureName("demo", "3-res", 7),
    (),
    (
        active("The", " cat", " sat.", at=1, quantile=1),
        active(" Le", " café", " du", " chat", at=3, quantile=2),
        active("\tcats 猫", "\n", "purr\n", at=0, quantile=2),
    ),
    (silent("A", " stone", " fell."), silent("x = {1: [2]}"), silent("Grüße", " aus", " Köln"), silent("1 + 1")),
)


def pieces(text: str) -> tuple[TokenChoice, ...]:
    return tuple(TokenChoice(piece, -1.0) for piece in text.split("|"))


@pytest.mark.parametrize(
    ("prompt", "parts", "places"),
    [
        ("<s>|a|b|c", ("a", "bc"), [range(2, 4)]),
        ("a b|c|a b|c|<end>", ("a ", "bc"), [range(2, 4)]),  # the last time, and the token that it begins in
        ("x|\ufffd|\ufffd|\ufffd|y", ("x", "猫y"), [range(1, 5)]),
        ("x||猫|y", ("x", "猫", "y"), [range(1, 3)]),
        ("two|\u2581words|here", ("two", " words here"), [range(1, 3)]),
        ("a|\t|?\n|b\t|?", ("a\t", "?", "\nb\t", "?"), [range(2, 3), range(4, 5)]),
        ("a|(.*)|b", ("a", "(.*)b"), [range(1, 3)]),
        ("a|b", ("a", "c"), None),
        ("", ("a", "b"), None),
    ],
)
def test_a_part_of_a_prompt_is_found_in_whatever_tokens(
    prompt: str, parts: tuple[str, ...], places: list[range] | None
) -> None:
    assert tokens_of(pieces(prompt), *parts) == places


class TinyModel:
    """A random GPT-2 in float64, and a provider's echo of a prompt through it."""

    def __init__(self) -> None:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        from tests.tiny_models import _tokenizer

        torch.manual_seed(7)
        config = GPT2Config(n_layer=2, n_embd=16, n_head=2, n_positions=1024, vocab_size=400)
        self.model: Any = GPT2LMHeadModel(config).double().eval()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.mul_(8.0)
        self.tokenizer: Any = _tokenizer("<s>", None, adds_bos=True)

    def logits(self, ids: Sequence[int]) -> Any:
        import torch

        with torch.no_grad():
            return self.model(input_ids=torch.tensor([ids])).logits[0]

    def loss(self, prompt: str, n_chars: int) -> float:
        """Cross-entropy of the tokens that write the last characters, by where the tokenizer says that they stand."""
        import torch

        encoded = self.tokenizer(prompt, return_offsets_mapping=True)
        ids = encoded["input_ids"]
        wanted = [at for at, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(prompt) - n_chars]
        rows = self.logits(ids)[[at - 1 for at in wanted]]
        return float(torch.nn.functional.cross_entropy(rows, torch.tensor([ids[at] for at in wanted])))

    def echo(self, call: Call) -> fake.Act:
        ids: list[int] = self.tokenizer(call.prompt)["input_ids"]
        logprobs = self.logits(ids).log_softmax(-1)
        chances = [None, *(float(logprobs[at - 1, ids[at]]) for at in range(1, len(ids)))]
        texts = [self.tokenizer.decode([id_]) for id_ in ids]
        written = {"tokens": [*texts, "!"], "token_logprobs": [*chances, -1.0], "top_logprobs": None}
        counted = {"prompt_tokens": len(ids), "completion_tokens": 1}
        return fake.says({"choices": [{"text": call.prompt + "!", "logprobs": written}], "usage": counted})


def test_losses_are_the_models_own_and_the_score_is_their_area() -> None:
    tiny = TinyModel()

    async def run() -> tuple[Any, list[Call]]:
        async with FakeProvider(acts=tiny.echo) as provider, open_client(UrlPolicy(loopback=True)) as client:
            model = ProviderModel(OpenAIEndpoint(client, provider.base_url, "tiny"), RateGate(RateLimits()))
            return await SurprisalScorer(model, SurprisalParameters()).score(TEXTS, "cats"), provider.calls

    score, calls = asyncio.run(run())
    assert (score.status, score.metric, len(calls)) == ("ok", "auc", 14)
    prompts = {call.prompt for call in calls}
    decreases: dict[bool, list[float]] = {True: [], False: []}
    for row in score.rows:
        assert isinstance(row, Surprise)
        text = row.example.text.rstrip()
        behind = {about: next(p for p in prompts if p.endswith(f"About: {about}\nText:\n{text}")) for about in ABOUT}
        plain, told = (tiny.loss(behind[about], len(text)) for about in ABOUT)
        assert row.plain_nats == pytest.approx(plain, rel=1e-12)
        assert row.told_nats == pytest.approx(told, rel=1e-12)
        decreases[row.truth].append(plain - told)
    pairs = [float(on > off) for on in decreases[True] for off in decreases[False]]
    assert score.value == pytest.approx(sum(pairs) / len(pairs))
    assert score.metrics["decrease_active_nats"] == pytest.approx(sum(decreases[True]) / 3)
    assert score.metrics["decrease_silent_nats"] == pytest.approx(sum(decreases[False]) / 4)
    assert list(score.by_quantile) == [1, 2]


ABOUT = ("nothing in particular", "cats")


def knowing(word: str, words: Sequence[str]) -> Any:
    """A reader that foresees texts with `word` behind an explanation in `words`, and only those."""

    def answer(question: Ask) -> Reply:
        prompt = question.messages[-1].content
        about, _, text = prompt.rpartition("About: ")[2].partition("\nText:\n")
        chance = 0.5 if about in words and word in text else 0.1
        tokens = tuple(TokenChoice(token, log(chance)) for token in fake.words(prompt))
        return Reply("", Usage(calls=1), "scripted", prompt=tokens)

    return answer


@pytest.mark.parametrize(("explanation", "value"), [("cats", 1.0), ("stones", 0.5), ("cats\n  and dogs", 1.0)])
def test_an_explanation_that_tells_of_the_features_texts_scores_high(explanation: str, value: float) -> None:
    model = ScriptedModel(knowing("cat", ["cats", "cats and dogs"]))
    score = asyncio.run(SurprisalScorer(model, SurprisalParameters()).score(cats_and_stones(6, 4), explanation))
    assert (score.value, score.status) == (value, "ok")
    assert model.peak == 20
    assert all(ask.prompt_logprobs and len(ask.messages) == 1 for ask in model.asked)


def test_what_is_read_without_the_explanation_is_the_same_for_every_explanation() -> None:
    asked: list[set[Ask]] = []
    for explanation in ("cats", "stones"):
        model = ScriptedModel(knowing("cat", ["cats"]))
        asyncio.run(SurprisalScorer(model, SurprisalParameters()).score(cats_and_stones(6, 4), explanation))
        asked.append({ask for ask in model.asked if "About: nothing in particular" in ask.messages[0].content[-80:]})
    assert asked[0] == asked[1]
    assert len(asked[0]) == 10


def test_texts_that_are_not_in_the_prompts_tokens_are_failed_rows() -> None:
    lost = Reply("", Usage(calls=1), "scripted", prompt=(TokenChoice("", 0.0), TokenChoice("else", -1.0)))
    score = asyncio.run(
        SurprisalScorer(ScriptedModel(in_turn(lost)), SurprisalParameters()).score(cats_and_stones(3, 3), "cats")
    )
    assert (score.value, score.status, score.metrics) == (None, "invalid", {"failure_rate": 1.0})
    whole = knowing("cat", ["cats"])

    def one_lost(question: Ask) -> Reply:
        return lost if question.messages[0].content.endswith("cats\nText:\nThe cat sat 0") else whole(question)

    score = asyncio.run(
        SurprisalScorer(ScriptedModel(one_lost), SurprisalParameters()).score(cats_and_stones(6, 4), "cats")
    )
    assert (score.value, score.status) == (1.0, "partial")
    assert [row.failed for row in score.rows].count(True) == 1


def test_surprisal_needs_both_kinds_and_a_provider_that_has_log_probabilities() -> None:
    scorer = SurprisalScorer(ScriptedModel(in_turn(ProviderRejected("no log-probabilities"))), SurprisalParameters())
    with pytest.raises(ProviderRejected):
        asyncio.run(scorer.score(cats_and_stones(), "cats"))
    for record in (cats_and_stones(0, 3), cats_and_stones(3, 0)):
        with pytest.raises(InvalidRequest):
            asyncio.run(scorer.score(record, "cats"))


EXPECTED = {" a": {"0": 0.8, "1": 0.1, "x": 0.1}, " cat": {"9": 0.6, " 7": 0.2, "10": 0.1}, "\n": {"3": 0.5}}


def guessing(question: Ask) -> Reply:
    """Reads a simulation's prompt in tokens of which some hold the question mark and more."""
    prompt = question.messages[-1].content
    head, _, lines = prompt.rpartition("Strengths:\n")
    tokens = [TokenChoice(f"{head}Strengths:\n", -1.0)]
    for line in lines.split("\n"):
        token, _, _ = line.partition("\t")
        chances = EXPECTED[{"\\n": "\n"}.get(token, token)]
        top = tuple((text, log(chance)) for text, chance in chances.items())
        tokens += [TokenChoice(f"{token}\t", -1.0), TokenChoice("?\n", -3.0, top)]
    tokens[-1] = TokenChoice("?", -3.0, tokens[-1].top)
    return Reply("", Usage(calls=1), "scripted", prompt=tuple(tokens))


def test_expected_activations_are_the_means_of_likely_digits() -> None:
    record = FeatureRecord(
        None, (), (Example((" a", " cat", "\n"), (0.0, 4.0, 1.0)),), (Example((" a", " a"), (0.0, 0.0)),)
    )
    model = ScriptedModel(guessing)
    scorer = SimulationScorer(model, SimulationParameters(log_probabilities=True))
    score = asyncio.run(scorer.score(record, "cats"))
    low, cat = 0.1 / 0.9, (9 * 0.6 + 7 * 0.2) / 0.8
    first, second = (row.expected for row in score.rows if isinstance(row, Simulated))
    assert first == pytest.approx((low, cat, 3.0))
    assert second == pytest.approx((low, low))
    assert (score.status, score.metric, model.peak) == ("ok", "correlation", 2)
    assert all(ask.prompt_logprobs and ask.max_tokens == 1 and ask.top_logprobs == 20 for ask in model.asked)


def test_a_simulation_whose_digits_are_not_told_is_a_failed_row() -> None:
    def silent_on_cats(question: Ask) -> Reply:
        reply = guessing(question)
        kept = [
            TokenChoice(one.text, one.logprob, tuple(pair for pair in one.top if pair[0].strip() not in "9710"))
            for one in reply.prompt
        ]
        return Reply("", reply.usage, reply.model, prompt=tuple(kept))

    record = FeatureRecord(None, (), (Example((" a", " cat"), (0.0, 4.0)),))
    scorer = SimulationScorer(ScriptedModel(silent_on_cats), SimulationParameters(log_probabilities=True))
    score = asyncio.run(scorer.score(record, "cats"))
    assert (score.value, score.status) == (None, "invalid")


def test_the_worked_examples_of_a_simulation_say_a_digit_for_every_token() -> None:
    text = simulating_by_chance("cats", [" a", "\t"]).messages[0].content
    worked, _, last = text.rpartition("\n\n")
    assert last == "Feature: cats\nStrengths:\n a\t?\n\\t\t?"
    blocks = [block.split("Strengths:\n")[1].split("\n") for block in worked.split("\n\n")[1:]]
    digits = [line.split("\t")[1] for block in blocks for line in block]
    assert set(digits) <= set("?0123456789")
    assert all(block[0].endswith("?") and not block[-1].endswith("?") for block in blocks)
