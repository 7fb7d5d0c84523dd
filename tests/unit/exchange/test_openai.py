"""OpenAI's bodies become continuations, and what the engine writes becomes OpenAI's answers, whole and in chunks."""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.arguments import ModelAppArgs
from cluster.description import describe
from core.catalogue.catalogue import weights_location
from core.errors import InvalidRequest, NotFound
from core.exchange.openai import MOST_TEXTS, Asked, ask_chat, ask_completion
from core.exchange.openai_forms import Head
from core.exchange.served import ServedModel
from core.generation.requests import Finish, Growth, TokenScore
from core.generation.token_bytes import token_bytes
from core.prompts import PromptTokenizer
from core.steering.specification import Condition, FeatureDirection, HookPlace, Method, Push, VectorDirection
from core.wire.base import WireModel, render
from core.wire.openai import ChatCompletionsRequest, CompletionsRequest

HEAD = Head("answer-1", 1_700_000_000, "rayscope-demo")
TOKEN_LIMIT, GENERATION_LIMIT = 40, 64
BOS, EOS, TURN_END = 1, 2, 6
TEXT = "Le chat dort. 🐈 El gato\n\nduerme: 7, naïve."
SPANISH = {"source": "1-res-demo", "index": 2, "strength": 12.8}


def served_demo() -> ServedModel:
    """The demo as its application describes it; no weights are loaded."""
    description = describe(
        ModelAppArgs.model_validate(
            {
                "model": "rayscope-demo",
                "token_limit": TOKEN_LIMIT,
                "generation_limit": GENERATION_LIMIT,
                "runners": [{"source_sets": ["res-demo", "att-demo"]}],
            }
        )
    )
    return ServedModel(description, PromptTokenizer.load(weights_location(description.weights)))


DEMO = served_demo()
TOKENIZER = DEMO.tokenizer
WIDTH = DEMO.description.shape.d_model


def completion(**changes: Any) -> Asked:
    body = {"model": "rayscope-demo", "prompt": "Le chat dort sur"} | changes
    return ask_completion(CompletionsRequest.model_validate(body), DEMO, HEAD)


def chat(**changes: Any) -> Asked:
    body = {"model": "rayscope-demo", "messages": [{"role": "user", "content": "Bonjour"}]} | changes
    return ask_chat(ChatCompletionsRequest.model_validate(body), DEMO, HEAD)


def ids_of(text: str) -> tuple[int, ...]:
    """What plain `transformers` makes of a text, without BOS."""
    return tuple(TOKENIZER.hf(text, add_special_tokens=False)["input_ids"])


def scores_of(ids: Sequence[int]) -> tuple[TokenScore, ...]:
    return tuple(TokenScore(-0.5 - n, ((token, -0.5 - n), (TURN_END, -9.0))) for n, token in enumerate(ids))


def growths(
    ids: Sequence[int], cuts: Sequence[int] = (), finish: Finish = "length", index: int = 0, scored: bool = False
) -> Iterator[Growth]:
    """What an engine reports of a text, in pieces."""
    places = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    scores = scores_of(ids)
    for start, end in itertools.pairwise(places):
        last = end == len(ids)
        yield Growth(
            index, tuple(ids[start:end]), scores[start:end] if scored else (), finish if last and start < end else None
        )


def whole(asked: Asked, reported: Iterator[Growth]) -> Any:
    parts = asked.take(reported)
    return read(asked.form.whole(asked.whole(parts), asked.usage))


def streamed(asked: Asked, reported: Iterator[Growth]) -> list[Any]:
    return [read(asked.form.chunk(index, piece)) for growth in reported for index, piece in asked.take([growth])]


def read(response: WireModel) -> Any:
    return json.loads(render(response, "camel"))


def test_a_text_gets_bos_and_token_ids_are_taken_as_they_are() -> None:
    assert completion().continuations[0].prompt == (BOS, *ids_of("Le chat dort sur"))
    assert completion(prompt=[9, 8, 7]).continuations[0].prompt == (9, 8, 7)
    assert [one.prompt for one in completion(prompt=[[9], [8, 7]]).continuations] == [(9,), (8, 7)]


def test_special_tokens_of_a_prompt_are_known_to_steering() -> None:
    one = chat().continuations[0]
    special = {token for token in range(7)}
    assert one.special_positions == tuple(place for place, token in enumerate(one.prompt) if token in special)
    assert len(one.special_positions) > 2


def test_a_conversation_is_written_out_as_the_models_template_does() -> None:
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Bonjour"}]
    as_the_template_knows_it = [{"role": "system", "content": "Be brief."}, messages[1]]
    expected = TOKENIZER.hf.apply_chat_template(as_the_template_knows_it, add_generation_prompt=True, return_dict=False)
    assert chat(messages=messages).continuations[0].prompt == tuple(expected)


def test_choices_stand_prompt_by_prompt_and_are_drawn_with_consecutive_seeds() -> None:
    asked = completion(prompt=["Hello", "Hola"], n=3, seed=40)
    hello, hola = (BOS, *ids_of("Hello")), (BOS, *ids_of("Hola"))
    assert [one.prompt for one in asked.continuations] == [hello] * 3 + [hola] * 3
    assert [one.sampling.seed for one in asked.continuations] == [40, 41, 42] * 2
    assert [one.sampling.seed for one in completion(n=2).continuations] == [None, None]
    assert asked.usage.prompt_tokens == len(hello) + len(hola)


def test_what_is_left_out_has_openais_default() -> None:
    sampling = completion().continuations[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (16, 1.0, 1.0)
    assert (sampling.frequency_penalty, sampling.presence_penalty, sampling.n_logprobs) == (0.0, 0.0, 0)
    asked = chat()
    prompt = asked.continuations[0].prompt
    assert asked.continuations[0].sampling.max_tokens == GENERATION_LIMIT - len(prompt)
    assert asked.continuations[0].steering is None


def test_rules_arrive_as_they_were_sent() -> None:
    rules = {"temperature": 0, "top_p": 0.5, "frequency_penalty": -1, "presence_penalty": 2, "seed": 3}
    for asked in (completion(max_tokens=5, logprobs=4, **rules), chat(max_tokens=5, **rules)):
        sampling = asked.continuations[0].sampling
        assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.seed) == (5, 0.0, 0.5, 3)
        assert (sampling.frequency_penalty, sampling.presence_penalty) == (-1.0, 2.0)
    assert chat(max_completion_tokens=7).continuations[0].sampling.max_tokens == 7
    assert completion(logprobs=4).continuations[0].sampling.n_logprobs == 4
    assert completion(logprobs=0).continuations[0].sampling.n_logprobs == 1
    assert chat(logprobs=True).continuations[0].sampling.n_logprobs == 1
    assert chat(logprobs=True, top_logprobs=6).continuations[0].sampling.n_logprobs == 6


def test_a_text_ends_at_eos_and_an_answer_also_at_the_end_of_its_turn() -> None:
    assert completion().continuations[0].sampling.stop_ids == {EOS}
    assert chat().continuations[0].sampling.stop_ids == {EOS, TURN_END}


def test_the_steering_object_says_what_both_engines_understand() -> None:
    steering = completion(
        steering={
            "features": [SPANISH],
            "vectors": [{"hook": "blocks.2.hook_resid_pre", "vector": [1.0] * WIDTH, "strength": -1, "at_least": -6}],
            "method": "PROJECTION_CAP",
            "normalize": True,
            "multiplier": 2,
            "positions": "generated",
            "steer_special_tokens": False,
            "condition": {"source": "0-res-demo", "index": 5, "above": 0.5},
        }
    )
    found = steering.continuations[0].steering
    assert found is not None
    assert found.pushes[0] == Push(FeatureDirection("1-res-demo", 2), 25.6)
    vector = found.pushes[1].direction
    assert isinstance(vector, VectorDirection)
    assert vector.hook == HookPlace(2, "resid_pre")
    assert vector.vector.dtype == np.float32
    assert vector.vector.tolist() == [1.0] * WIDTH
    assert (found.pushes[1].coefficient, found.pushes[1].at_least) == (-2.0, -6.0)
    assert (found.method, found.normalize, found.positions) == (Method.PROJECTION_CAP, True, "generated")
    assert (found.special_tokens, found.condition) == (False, Condition("0-res-demo", 5, 0.5))


def vector(numbers: list[float], hook: str = "blocks.1.hook_resid_post") -> dict[str, Any]:
    return {"vectors": [{"hook": hook, "vector": numbers, "strength": 1.0}]}


@pytest.mark.parametrize(
    ("steering", "error", "message"),
    [
        ({}, InvalidRequest, "at least one feature or vector"),
        ({"features": [SPANISH | {"source": "9-res-demo"}]}, NotFound, "no source '9-res-demo'"),
        ({"features": [SPANISH | {"index": 10**6}]}, InvalidRequest, "out of range"),
        ({"features": [SPANISH | {"index": -1}]}, InvalidRequest, "out of range"),
        ({"features": [SPANISH], "multiplier": 1e308}, InvalidRequest, "too large"),
        (
            vector([1.0] * (WIDTH - 1)),
            InvalidRequest,
            f"{WIDTH - 1} numbers, but blocks.1.hook_resid_post of rayscope-demo has {WIDTH}",
        ),
        (vector([1e300] * WIDTH), InvalidRequest, "inf or nan"),
        (vector([0.0] * WIDTH) | {"normalize": True}, InvalidRequest, "zero"),
        (vector([0.0] * WIDTH) | {"method": "ABLATION"}, InvalidRequest, "zero"),
        (vector([1.0] * WIDTH, "blocks.9.hook_resid_post"), InvalidRequest, "Invalid layer"),
        (vector([1.0] * WIDTH, "blocks.1.hook_q"), InvalidRequest, "Unsupported hook"),
        ({"features": [SPANISH | {"at_least": 1.0}]}, InvalidRequest, "lower bound of PROJECTION_CAP"),
        (
            {"features": [SPANISH | {"at_least": 99}], "method": "PROJECTION_CAP"},
            InvalidRequest,
            "above its upper bound",
        ),
        ({"features": [SPANISH], "condition": {"source": "3-res-demo", "index": 0}}, InvalidRequest, "comes after"),
        ({"features": [SPANISH], "condition": {"source": "nope", "index": 0}}, NotFound, "no source 'nope'"),
    ],
)
def test_steering_that_can_not_be_carried_out_is_refused_with_the_reason(
    steering: dict[str, Any], error: type[Exception], message: str
) -> None:
    for ask in (completion, chat):
        with pytest.raises(error, match=message):
            ask(steering=steering)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " 7" * TOKEN_LIMIT}, f"Text too long: {TOKEN_LIMIT + 1} tokens, max is {TOKEN_LIMIT}"),
        ({"prompt": [9] * (TOKEN_LIMIT + 1)}, "Text too long"),
        ({"prompt": [10**6]}, "token id 1000000"),
        ({"max_tokens": GENERATION_LIMIT}, f"together may have {GENERATION_LIMIT}"),
        ({"prompt": ["a"] * (MOST_TEXTS + 1)}, f"the most are {MOST_TEXTS}"),
        ({"n": MOST_TEXTS + 1}, f"the most are {MOST_TEXTS}"),
        ({"echo": True, "logprobs": 1}, "echo and logprobs"),
    ],
)
def test_a_text_that_can_not_be_continued_is_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        completion(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": [{"role": "cat", "content": "x"}]}, "Failed to apply chat template"),
        ({"messages": [{"role": "user", "content": " 7" * TOKEN_LIMIT}]}, "too long"),
        ({"top_logprobs": 3}, "top_logprobs needs logprobs"),
        ({"max_completion_tokens": GENERATION_LIMIT}, "together may have"),
    ],
)
def test_a_conversation_that_can_not_be_answered_is_refused_with_the_reason(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        chat(**changes)


def test_a_whole_answer_has_every_text_and_the_token_counts() -> None:
    asked = completion(prompt=["Hello", "Hola"])
    first, second = ids_of(" there."), ids_of(" amigo")
    reported = [*growths((*first, EOS), finish="stop"), *growths(second, index=1)]
    answer = whole(asked, iter(reported))
    n_prompt = sum(len(one.prompt) for one in asked.continuations)
    n_written = len(first) + 1 + len(second)
    assert answer == {
        "id": "answer-1",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": "rayscope-demo",
        "choices": [
            {"index": 0, "text": " there.", "logprobs": None, "finish_reason": "stop"},
            {"index": 1, "text": " amigo", "logprobs": None, "finish_reason": "length"},
        ],
        "usage": {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_written,
            "total_tokens": n_prompt + n_written,
        },
    }


def test_a_chat_answer_is_a_message_without_the_marker_that_ends_it() -> None:
    answer = whole(chat(), growths((*ids_of("Salut !"), TURN_END), finish="stop"))
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Salut !", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]


cuts = st.lists(st.integers(0, 40), max_size=12)


@given(cuts=cuts, stop=st.sampled_from([[], ["gato"], ["\n\n"], ["t. 🐈"], ["dorm", "aïve"], ["never"]]))
def test_a_text_is_the_same_however_it_arrives(cuts: list[int], stop: list[str]) -> None:
    ids = ids_of(TEXT)
    ends = [TEXT.index(one) for one in stop if one in TEXT]
    expected = TEXT[: min(ends)] if ends else TEXT
    asked = completion(stop=stop)
    chunks = streamed(asked, growths(ids, cuts))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert finishes == [None] * (len(chunks) - 1) + ["stop" if ends else "length"]
    assert all("\ufffd" not in chunk["choices"][0]["text"] for chunk in chunks)
    assert asked.done
    one_by_one = completion(stop=stop)
    streamed(one_by_one, growths(ids, range(1, len(ids))))
    assert asked.usage == one_by_one.usage
    at_once = completion(stop=stop)
    assert whole(at_once, growths(ids))["choices"][0]["text"] == expected
    assert at_once.usage == asked.usage


@given(cuts=cuts, stop=st.sampled_from([[], ["gato"], ["\n\n"], ["t. 🐈"], ["never"]]))
def test_log_probabilities_belong_to_the_tokens_of_the_text(cuts: list[int], stop: list[str]) -> None:
    ids = ids_of(TEXT)
    asked = completion(stop=stop, logprobs=2)
    chunks = streamed(asked, growths((*ids, EOS), cuts, finish="stop", scored=True))
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    reported = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    tokens = [token for part in reported for token in part["tokens"]]
    offsets = [offset for part in reported for offset in part["text_offset"]]
    logprobs = [value for part in reported for value in part["token_logprobs"]]
    assert logprobs == [-0.5 - n for n in range(len(tokens))]
    assert len(tokens) == len(ids) if text == TEXT else 0 < len(tokens) < len(ids)
    raw = b"".join(token_bytes(TOKENIZER, token) for token in ids[: len(tokens)])
    assert raw.startswith(text.encode())
    for token, offset in zip(tokens, offsets, strict=True):
        assert token.startswith("bytes:") or TEXT[offset:].startswith(token)
    assert all(offset < len(text) for offset in offsets)
    tops = [top for part in reported for top in part["top_logprobs"]]
    assert all(top["<|end|>"] == -9.0 for top in tops)


def test_a_character_of_several_tokens_is_reported_in_bytes() -> None:
    cat = ids_of("🐈")
    assert len(cat) > 1
    assert b"".join(token_bytes(TOKENIZER, token) for token in cat) == "🐈".encode()
    in_chat = whole(chat(logprobs=True, top_logprobs=1), growths(cat, scored=True))["choices"][0]
    assert in_chat["message"]["content"] == "🐈"
    content = in_chat["logprobs"]["content"]
    assert bytes(byte for token in content for byte in token["bytes"]) == "🐈".encode()
    assert [[top["logprob"] for top in token["top_logprobs"]] for token in content] == [
        [-0.5 - n] for n in range(len(cat))
    ]
    older = whole(completion(logprobs=0), growths(cat, scored=True))["choices"][0]["logprobs"]
    assert older["tokens"][0].startswith("bytes:\\x")
    assert older["text_offset"] == [0] * len(cat)
    assert older["top_logprobs"] is None


def test_the_prompt_is_echoed_before_the_text() -> None:
    ids = ids_of(" la mesa")
    asked = completion(prompt="Le chat", echo=True)
    assert whole(asked, growths(ids))["choices"][0]["text"] == "Le chat la mesa"
    asked = completion(prompt="Le chat", echo=True)
    (opening,) = asked.form.opening(0, asked.echoed[0])
    assert read(opening)["choices"][0]["text"] == "Le chat"
    assert completion(prompt="Le chat").form.opening(0, "") == []


def test_a_chat_stream_opens_with_the_role_and_may_close_with_the_counts() -> None:
    asked = chat(stream=True, stream_options={"include_usage": True})
    (opening,) = asked.form.opening(0, "")
    assert read(opening)["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    chunks = streamed(asked, growths((*ids_of("Salut !"), TURN_END), range(9), finish="stop"))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Salut !"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert asked.includes_usage
    counted = read(asked.form.counted(asked.usage))
    assert counted["choices"] == []
    assert counted["usage"]["completion_tokens"] == len(ids_of("Salut !")) + 1
    assert not chat(stream=True).includes_usage


def test_what_the_engine_writes_after_a_stop_string_is_dropped() -> None:
    asked = completion(stop=["."])
    chunks = streamed(asked, growths(ids_of("Oui. Non. Oui."), range(1, 20)))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Oui"
    assert asked.usage.completion_tokens == len(ids_of("Oui."))


def test_a_request_is_done_when_every_choice_has_ended() -> None:
    asked = completion(n=2)
    asked.take(growths(ids_of("Oui"), index=1))
    assert not asked.done
    asked.take(growths(ids_of("Non"), index=0))
    assert asked.done
