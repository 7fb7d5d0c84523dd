"""Features held while a model writes: the numbers are `steered.Truth`'s, which reads everything anew for each token."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.deadline import Deadline
from core.device import DeviceExecutor
from core.engine.model import EagerModel
from core.errors import DeadlineExceeded, InvalidRequest, TooLarge
from core.graph.intervention import InterventionEngine, PairOfTexts
from core.graph.requests import (
    GraphPrompt,
    Intervention,
    InterventionAnswer,
    InterventionQuestion,
    WrittenText,
)
from core.graph.transcoders.transcoder import ActiveFeatures

from .architectures import D_MODEL, N_LAYERS, VOCAB_SIZE, eager_model
from .plain_sets import KINDS, PlainSet, random_set
from .steered import Truth

PROMPT = (0, 17, 42, 5, 33, 8, 21)
LAST = len(PROMPT) - 1
N_TOKENS = 5
Rows = tuple[tuple[tuple[int, float], ...], ...]


def a_set(kind: str = "relu", **places: Any) -> PlainSet:
    return random_set(kind, n_layers=N_LAYERS, d_model=D_MODEL, **places)


def held(layer: int, index: int, active: int, at: int | None, delta: float | None) -> Intervention:
    return Intervention(layer, index, active, at, delta)


def strongest(truth: Truth, layer: int, position: int) -> int:
    """The feature that is most active there."""
    values = truth.active[layer][position]
    assert values.max() > 0
    return int(values.argmax())


def mixture(truth: Truth) -> tuple[Intervention, ...]:
    """Ablations and shifts in every layer, on active and inactive features, in the prompt and behind it."""
    return (
        held(0, strongest(truth, 0, 3), 3, 3, None),
        held(0, strongest(truth, 0, 2), 2, 5, 4.0),
        held(1, strongest(truth, 1, LAST), LAST, LAST, None),
        held(1, 3, 4, LAST, -3.0),
        held(1, strongest(truth, 1, 4), 4, None, 5.0),
        held(2, strongest(truth, 2, LAST), LAST, LAST, 3.0),
        held(2, strongest(truth, 2, 1), 1, None, None),
    )


def asked(interventions: tuple[Intervention, ...], n_tokens: int = N_TOKENS, **more: Any) -> InterventionQuestion:
    prompt = GraphPrompt(more.pop("ids", PROMPT), more.pop("n_silent", 1))
    return InterventionQuestion(prompt, interventions, n_tokens, **{"top_k": 4} | more)


def written(
    transcoders: PlainSet, question: InterventionQuestion, name: str = "llama", dtype: torch.dtype = torch.float64
) -> InterventionAnswer:
    pair = PairOfTexts(eager_model(name, dtype), transcoders, question)
    while not pair.ended:
        pair.advance()
    return pair.answer()


def check(text: WrittenText, truth: Truth, n_tokens: int, extra: int) -> None:
    ids, rows = truth.write(n_tokens + extra)
    assert list(text.tokens) == ids
    assert len(text.top) == n_tokens + 1
    for found, row in zip(text.top, rows, strict=False):
        best = row.topk(len(found))
        assert [token for token, _ in found] == best.indices.tolist()
        assert [share for _, share in found] == pytest.approx(best.values.tolist(), abs=2e-6)


def compare(name: str, transcoders: PlainSet, *, freeze: bool = False) -> None:
    plain = Truth(name, transcoders, PROMPT)
    steered = dataclasses.replace(plain, held=mixture(plain), freeze=freeze)
    answer = written(transcoders, asked(steered.held, freeze_attention=freeze), name)
    check(answer.default, plain, N_TOKENS, extra=0)
    check(answer.steered, steered, N_TOKENS, extra=1)
    # So that the comparison can fail: the clamps move probabilities by far more than the tolerance.
    assert abs(answer.default.top[0][0][1] - answer.steered.top[0][0][1]) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_those_of_the_whole_sequence_read_anew(kind: str) -> None:
    compare("llama", a_set(kind))


@pytest.mark.parametrize("name", ["mistral", "qwen3", "gemma2", "gemma3", "gpt2", "olmo2"])
@pytest.mark.parametrize("freeze", [False, True])
def test_every_architecture_is_steered_alike(name: str, freeze: bool) -> None:
    compare(name, a_set("clt"), freeze=freeze)


@pytest.mark.parametrize("reads", ["mlp_in", "resid_mid", "mlp_normalized"])
@pytest.mark.parametrize("writes", ["mlp_out", "mlp_contribution"])
def test_transcoders_read_and_write_where_they_were_trained(reads: Any, writes: Any) -> None:
    compare("gemma2", a_set("jumprelu", reads=reads, writes=writes))


@pytest.mark.parametrize("kind", ["relu", "clt"])
def test_frozen_attention_is_the_unsteered_prompts(kind: str) -> None:
    transcoders = a_set(kind)
    compare("llama", transcoders, freeze=True)
    question = asked(mixture(Truth("llama", transcoders, PROMPT)))
    free = written(transcoders, question)
    frozen = written(transcoders, dataclasses.replace(question, freeze_attention=True))
    assert abs(free.steered.top[0][0][1] - frozen.steered.top[0][0][1]) > 1e-4


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_held_at_its_own_value_changes_no_bit(kind: str, dtype: torch.dtype, freeze: bool) -> None:
    transcoders = a_set(kind, dtype=dtype)
    truth = Truth("llama", a_set(kind), PROMPT)
    places = [(layer, at) for layer in range(N_LAYERS) for at in (2, 3, LAST)]
    own = tuple(held(layer, strongest(truth, layer, at), at, at, 0.0) for layer, at in places)
    same = written(transcoders, asked(own, freeze_attention=freeze), dtype=dtype)
    assert same.steered.top == same.default.top
    assert same.steered.tokens[:-1] == same.default.tokens
    nearly = (*own[:-1], dataclasses.replace(own[-1], delta=0.5))
    moved = written(transcoders, asked(nearly, freeze_attention=freeze), dtype=dtype)
    assert moved.steered.top != same.steered.top


def test_an_inactive_feature_that_is_ablated_changes_no_bit() -> None:
    transcoders = a_set()
    truth = Truth("llama", transcoders, PROMPT)
    silent = int((truth.active[1][3] == 0).nonzero()[0])
    answer = written(transcoders, asked((held(1, silent, 3, 3, None),)))
    assert answer.steered.top == answer.default.top


def test_of_several_clamps_on_one_feature_at_one_position_the_last_counts() -> None:
    transcoders = a_set()
    first, second = held(1, 3, 4, 4, 50.0), held(1, 3, 2, 4, -2.0)
    elsewhere = held(1, 3, 4, 5, 50.0)
    assert written(transcoders, asked((first, second))) == written(transcoders, asked((second,)))
    assert written(transcoders, asked((first, elsewhere))) != written(transcoders, asked((elsewhere,)))


def test_clamps_of_generated_tokens_spare_the_first_one() -> None:
    transcoders = a_set()
    answer = written(transcoders, asked((held(1, 7, 3, None, 60.0), held(0, 2, 3, None, 60.0))))
    assert answer.steered.top[0] == answer.default.top[0]
    assert answer.steered.tokens[: len(PROMPT) + 1] == answer.default.tokens[: len(PROMPT) + 1]
    assert abs(answer.steered.top[1][0][1] - answer.default.top[1][0][1]) > 1e-3


@pytest.mark.parametrize("n_silent", [1, 4])
def test_features_at_silent_positions_count_as_inactive(n_silent: int) -> None:
    transcoders = a_set()
    truth = Truth("llama", transcoders, PROMPT, n_silent=0)
    loud = strongest(truth, 1, n_silent - 1)
    gone = written(transcoders, asked((held(1, loud, n_silent - 1, n_silent - 1, None),), n_silent=n_silent))
    assert gone.steered.top == gone.default.top
    plain = Truth("llama", transcoders, PROMPT, n_silent=n_silent)
    shifts = (held(1, loud, n_silent - 1, 5, 2.0), held(1, loud, 5, n_silent - 1, 3.0))
    answer = written(transcoders, asked(shifts, n_silent=n_silent))
    check(answer.steered, dataclasses.replace(plain, held=shifts), N_TOKENS, extra=1)


def test_without_clamps_both_texts_are_the_same() -> None:
    for freeze in (False, True):
        answer = written(a_set(), asked((), freeze_attention=freeze))
        assert answer.steered.top == answer.default.top
        assert answer.steered.tokens[:-1] == answer.default.tokens


@pytest.mark.parametrize("n_tokens", [0, 1, 3])
def test_every_token_of_the_default_text_has_a_row_and_the_steered_text_one_token_more(n_tokens: int) -> None:
    answer = written(a_set(), asked((held(1, 3, 2, 4, 9.0),), n_tokens))
    assert len(answer.default.tokens) == len(PROMPT) + n_tokens
    assert len(answer.steered.tokens) == len(PROMPT) + n_tokens + 1
    assert len(answer.default.top) == len(answer.steered.top) == n_tokens + 1


def test_a_prompt_of_one_token_is_continued() -> None:
    transcoders = a_set()
    shift = (held(1, 3, 0, None, 4.0), held(2, 5, 0, 0, 2.0))
    answer = written(transcoders, asked(shift, ids=(17,)))
    check(answer.steered, Truth("llama", transcoders, (17,), shift), N_TOKENS, extra=1)


@pytest.mark.parametrize("top_k", [0, 1, VOCAB_SIZE, VOCAB_SIZE + 9])
def test_there_are_as_many_candidates_as_asked_for_and_as_the_vocabulary_has(top_k: int) -> None:
    answer = written(a_set(), asked((), 1, top_k=top_k))
    assert {len(row) for row in answer.default.top} == {min(top_k, VOCAB_SIZE)}


def assert_near(found: Rows, wanted: Rows) -> None:
    """Equal but for the last bits, which may depend on whether another text is in the batch."""
    assert [[token for token, _ in row] for row in found] == [[token for token, _ in row] for row in wanted]
    flat = [share for row in wanted for _, share in row]
    assert [share for row in found for _, share in row] == pytest.approx(flat, rel=1e-5)


STEERED = (held(1, 3, 2, 4, 30.0), held(0, 5, 2, None, 30.0))


def ended(which: str, at: int) -> tuple[InterventionAnswer, InterventionAnswer]:
    """The answer, and the same with a stop token that one text has `at` tokens after its prompt."""
    transcoders = a_set()
    whole = written(transcoders, asked(STEERED))
    stop = getattr(whole, which).tokens[len(PROMPT) + at - 1]
    return whole, written(transcoders, asked(STEERED, stop_ids=frozenset({stop})))


@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("which", ["default", "steered"])
def test_a_text_ends_with_its_stop_token_and_the_other_goes_on(which: str, at: int) -> None:
    whole, cut = ended(which, at)
    for name in ("default", "steered"):
        before: WrittenText = getattr(whole, name)
        after: WrittenText = getattr(cut, name)
        stop = getattr(whole, which).tokens[len(PROMPT) + at - 1]
        generated = before.tokens[len(PROMPT) :]
        length = generated.index(stop) + 1 if stop in generated else len(generated)
        assert after.tokens == before.tokens[: len(PROMPT) + length]
        assert_near(after.top, before.top[: length + 1])


def test_a_stop_token_in_the_prompt_ends_nothing() -> None:
    answer = written(a_set(), asked((), stop_ids=frozenset({PROMPT[-1]})))
    whole = written(a_set(), asked(()))
    stop = PROMPT[-1]
    assert stop not in whole.default.tokens[len(PROMPT) :]
    assert answer == whole


def drawn(seed: int | None, **more: Any) -> InterventionAnswer:
    return written(a_set(), asked(STEERED, 12, **{"temperature": 1.5, "seed": seed} | more))


def test_a_seed_repeats_both_texts_whatever_the_global_generators_say() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = drawn(7)
    before = torch.get_rng_state()
    torch.manual_seed(2)
    np.random.seed(2)
    second = drawn(7)
    torch.manual_seed(1)
    assert first == second
    assert torch.equal(before, torch.get_rng_state())
    assert drawn(8) != first
    assert drawn(None) != drawn(None)


def test_both_texts_begin_with_the_seed() -> None:
    answer = written(a_set(), asked((), 12, temperature=1.5, seed=3))
    assert answer.steered.tokens[:-1] == answer.default.tokens


def by_hand(rows: list[Tensor], prompt: tuple[int, ...], temperature: float, penalty: float, seed: int) -> list[int]:
    """Tokens drawn from next-token distributions by the rule: temperature, then penalty times count in the text."""
    random = np.random.default_rng(seed)
    text = list(prompt)
    for row in rows:
        counts = torch.bincount(torch.tensor(text), minlength=len(row))
        shares = (row.log() / temperature - penalty * counts).softmax(-1).cumsum(-1)
        text.append(int(torch.searchsorted(shares, float(random.random()) * shares[-1], right=True)))
    return text


@pytest.mark.parametrize(("temperature", "penalty"), [(0.7, 0.0), (0.7, 1.3), (2.0, 1.3), (0.7, -2.0)])
def test_the_penalty_comes_after_the_temperature_and_counts_the_prompt(temperature: float, penalty: float) -> None:
    prompt = (0, 17, 17, 17, 42, 42)
    question = asked((), 12, ids=prompt, temperature=temperature, frequency_penalty=penalty, seed=5, top_k=VOCAB_SIZE)
    text = written(a_set(), question).default
    rows = [torch.zeros(VOCAB_SIZE, dtype=torch.float64) for _ in text.top]
    for row, candidates in zip(rows, text.top, strict=True):
        for token, share in candidates:
            row[token] = share
    assert list(text.tokens) == by_hand(rows[:-1], prompt, temperature, max(0.0, penalty), 5)


def test_the_likeliest_token_pays_no_penalty() -> None:
    assert written(a_set(), asked(STEERED, frequency_penalty=5.0)) == written(a_set(), asked(STEERED))


def test_a_delta_that_overflows_is_the_clients() -> None:
    with pytest.raises(InvalidRequest, match="no longer finite"):
        written(a_set(), asked((held(1, 3, 2, 4, 1e308), held(2, 3, 2, 4, 1e308))))


def test_a_model_is_as_it_was_after_a_failure() -> None:
    class Broken(PlainSet):
        def decoder_rows(self, layer: int, indices: Tensor) -> Tensor:
            raise InvalidRequest("no such rows")

    def hooks() -> int:
        return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in module.modules())

    module = eager_model("llama").module
    usual, before = module.config._attn_implementation, hooks()
    whole = a_set()
    broken = Broken(**{field.name: getattr(whole, field.name) for field in dataclasses.fields(whole)})
    with pytest.raises(InvalidRequest, match="no such rows"):
        written(broken, asked(STEERED, freeze_attention=True))
    assert module.config._attn_implementation == usual
    assert hooks() == before
    written(whole, asked(STEERED, freeze_attention=True))
    assert (module.config._attn_implementation, hooks()) == (usual, before)


@asynccontextmanager
async def engine(transcoders: PlainSet, model: EagerModel | None = None) -> AsyncGenerator[Any]:
    device = DeviceExecutor("cpu")
    try:
        yield InterventionEngine(model or eager_model("llama"), transcoders, device), device
    finally:
        await device.aclose()


def test_questions_at_once_are_answered_as_alone() -> None:
    transcoders = a_set("clt")
    questions = [
        asked(STEERED, 9),
        asked((held(2, 1, 1, 2, 8.0),), 3, freeze_attention=True),
        asked((), 6, temperature=1.0, seed=4),
    ]

    async def together() -> list[InterventionAnswer]:
        async with engine(transcoders) as (answering, _):
            deadline = Deadline.after(60)
            return await asyncio.gather(*(answering.answer(question, deadline) for question in questions))

    assert asyncio.run(together()) == [written(transcoders, question) for question in questions]


def watched(transcoders: PlainSet, seen: Callable[[int, Tensor, Tensor], None]) -> PlainSet:
    """The same set, which says what it encodes."""

    class Watched(PlainSet):
        def activations(self, layer: int, x: Tensor, indices: Tensor) -> Tensor:
            seen(layer, x, indices)
            return super().activations(layer, x, indices)

        def encode(self, layer: int, x: Tensor) -> ActiveFeatures:
            raise AssertionError("all features of a layer are encoded")

    return Watched(**{field.name: getattr(transcoders, field.name) for field in dataclasses.fields(transcoders)})


def test_only_features_that_are_held_are_encoded_and_only_where_they_are_wanted() -> None:
    encoded: list[tuple[int, int, list[int]]] = []

    def seen(layer: int, x: Tensor, indices: Tensor) -> None:
        encoded.append((layer, len(x), indices.tolist()))

    clamps = (held(0, 5, 2, None, 1.0), held(0, 7, 2, 3, None), held(2, 9, 1, LAST, 2.0), held(2, 9, 4, 4, 2.0))
    written(watched(a_set(), seen), asked(clamps, 3))
    in_prompt = [(0, 2, [5, 7]), (2, 3, [9, 9])]
    # The unsteered prompt, the steered one, and from the second generated token on one feature at one position.
    assert encoded == [*in_prompt, *in_prompt, *[(0, 1, [5])] * 3]


def test_a_caller_that_leaves_ends_the_work_between_tokens() -> None:
    async def leave() -> int:
        loop = asyncio.get_running_loop()
        passes = 0
        gone: asyncio.Future[None] = loop.create_future()

        def seen(*_: object) -> None:
            nonlocal passes
            passes += 1
            if passes == 5:
                loop.call_soon_threadsafe(gone.set_result, None)

        async with engine(watched(a_set(), seen)) as (answering, device):
            task = asyncio.create_task(answering.answer(asked((held(0, 5, 2, None, 1.0),), 50), Deadline.after(60)))
            await gone
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await device.run(lambda: passes)

    assert asyncio.run(leave()) < 12


def test_a_deadline_that_has_passed_starts_nothing() -> None:
    async def late() -> None:
        async with engine(a_set()) as (answering, _):
            await answering.answer(asked(()), Deadline.after(0))

    with pytest.raises(DeadlineExceeded):
        asyncio.run(late())


@pytest.mark.parametrize(
    ("question", "error"),
    [
        (asked((), 58), TooLarge),
        (asked((), ids=(0, VOCAB_SIZE)), InvalidRequest),
    ],
)
def test_what_the_model_can_not_read_is_refused(question: InterventionQuestion, error: type[Exception]) -> None:
    async def refused() -> None:
        async with engine(a_set()) as (answering, _):
            await answering.answer(question, Deadline.after(60))

    with pytest.raises(error):
        asyncio.run(refused())
