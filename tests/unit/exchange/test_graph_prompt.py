"""`/parse-chat-prompt`: the conversation in a prompt, and where nothing is steered."""

import json
from typing import Any

import pytest

from core.exchange.graph_prompt import parse_chat_prompt
from core.exchange.graph_steering import steer
from core.wire.base import render
from core.wire.graph import ParseChatPromptRequest, SteerRequest
from tests.unit import tiny_tokenizers as tiny

from .graphs import letters, served_graphs


def parsed(tokenizer: Any, prompt: str) -> Any:
    reply = parse_chat_prompt(ParseChatPromptRequest(prompt=prompt), served_graphs(tokenizer).model)
    return json.loads(render(reply, "camel"))


def test_roles_are_canonical_and_bos_is_gone() -> None:
    text = "<start_of_turn>user\ncat<end_of_turn>\n<start_of_turn>model\nthe mat"
    for prompt in (text, f"<bos>{text}"):
        assert parsed(tiny.gemma(), prompt) == {
            "messages": [{"role": "user", "content": "cat"}, {"role": "assistant", "content": "the mat"}],
            "is_chat": True,
            "prompt": text,
            "unsteerable_positions": [0],
        }


@pytest.mark.parametrize("tokenizer", [tiny.gemma(), letters(adds_bos=True)])
def test_a_plain_text_is_no_conversation(tokenizer: Any) -> None:
    reply = parsed(tokenizer, "<bos>cat")
    assert (reply["messages"], reply["is_chat"], reply["prompt"]) == (None, False, "cat")


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "positions"),
    [
        (letters(adds_bos=True), "ab", [0]),
        (letters(adds_bos=False), "ab", [0]),
        (letters(adds_bos=True), "<bos><bos>ab<bos>", [0, 3]),
        (tiny.qwen(), "the cat sleeps", []),
    ],
)
def test_positions_of_bos_are_those_that_steering_ignores(tokenizer: Any, prompt: str, positions: list[int]) -> None:
    assert parsed(tokenizer, prompt)["unsteerable_positions"] == positions
    graphs = served_graphs(tokenizer)
    for position in range(3):
        feature = {"layer": 0, "index": 1, "token_active_position": 0, "steer_position": position, "delta": 1}
        body = {"model_id": "m", "prompt": prompt, "features": [feature], "n_tokens": 1}
        kept = steer(SteerRequest.model_validate(body), graphs).question.interventions
        assert bool(kept) == (position not in positions)
