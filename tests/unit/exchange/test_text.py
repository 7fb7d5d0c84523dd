"""`tokenize` and `apply-chat-template`: what plain `transformers` answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_tokenizers

from core.errors import InvalidRequest
from core.exchange.text import apply_chat_template, tokenize
from tests.gpt2_with_saes import Gpt2WithSaes

from .conftest import Tokens
from .front import BOS, TOKEN_LIMIT, Front, open_front, prompt_of

TEXTS = ["The quick brown fox", "", f"{BOS}Hi", f"Hi{BOS}", "Hello 🐈‍⬛ world", "  spaces  "]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello 🐈"},
    {"role": "assistant", "content": "Hi!"},
    {"role": "user", "content": "Bye"},
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("asked", [None, True, False])
def test_ids_and_strings_are_those_of_transformers(front: Front, tokens: Tokens, text: str, asked: bool | None) -> None:
    found = front.compute(tokenize, {"model": "gpt2-small", "text": text, "prependBos": asked})
    bos = asked is not False
    assert found == {
        "tokens": list(tokens.ids(text, bos=bos)),
        "tokenStrings": tokens.strings(text, bos=bos),
        "prependBos": bos,
    }


@pytest.mark.parametrize("asked", [None, True, False])
def test_a_tokenizer_without_bos_prepends_none(front_without_bos: Front, tokens: Tokens, asked: bool | None) -> None:
    found = front_without_bos.compute(tokenize, {"model": "m", "text": "The fox", "prependBos": asked})
    assert found["tokens"] == list(tokens.ids("The fox", bos=False))
    assert found["prependBos"] is False


def test_a_text_may_be_as_long_as_the_limit_and_no_longer(front: Front) -> None:
    assert len(front.compute(tokenize, {"model": "m", "text": prompt_of(TOKEN_LIMIT)})["tokens"]) == TOKEN_LIMIT
    for text, n_tokens in ((prompt_of(TOKEN_LIMIT + 1), r"41"), ("The quick brown fox. " * 50_000, r"\d+")):
        with pytest.raises(InvalidRequest, match=rf"^Text too long: {n_tokens} tokens, max is {TOKEN_LIMIT}"):
            front.compute(tokenize, {"model": "m", "text": text})


@pytest.fixture(scope="module", params=["qwen", "llama3"])
def chatty(request: pytest.FixtureRequest, world: Gpt2WithSaes, hub: Path) -> Iterator[tuple[Front, Any]]:
    """Tokenizers with a chat template. No question is asked of the model, so their vocabulary need not be its own."""
    build = getattr(tiny_tokenizers, request.param)
    with open_front(world, build()) as front:
        yield front, build()


@pytest.mark.parametrize("generate", [True, False])
def test_a_conversation_is_written_out_as_transformers_writes_it(
    chatty: tuple[Front, Any], generate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    front, tokenizer = chatty
    limit_to(front, monkeypatch, 1000)
    found = front.compute(apply_chat_template, {"messages": MESSAGES, "addGenerationPrompt": generate})
    options = {"add_generation_prompt": generate}
    assert found["prompt"] == tokenizer.apply_chat_template(MESSAGES, tokenize=False, **options)
    rendered = tokenizer.apply_chat_template(MESSAGES, tokenize=True, return_dict=True, **options)
    assert found["tokens"] == rendered["input_ids"]
    assert [span["position"] for span in found["spans"]] == list(range(len(found["tokens"])))
    assert [span["tokenId"] for span in found["spans"]] == found["tokens"]
    content = [span for span in found["spans"] if span["section"] == "content"]
    assert {span["messageIndex"] for span in content} == {0, 1, 2, 3}
    assert all(span["role"] == MESSAGES[span["messageIndex"]]["role"] for span in content)


def test_template_variables_reach_the_template(chatty: tuple[Front, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    front, tokenizer = chatty
    limit_to(front, monkeypatch, 1000)
    body = {"messages": MESSAGES[1:2], "chatTemplateKwargs": {"enable_thinking": False}}
    wanted = tokenizer.apply_chat_template(
        MESSAGES[1:2], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert front.compute(apply_chat_template, body)["prompt"] == wanted


def test_a_conversation_over_the_limit_is_refused(chatty: tuple[Front, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    front, tokenizer = chatty
    rendered = tokenizer.apply_chat_template(MESSAGES, tokenize=True, return_dict=True, add_generation_prompt=True)
    n_tokens = len(rendered["input_ids"])
    limit_to(front, monkeypatch, n_tokens)
    front.compute(apply_chat_template, {"messages": MESSAGES})
    limit_to(front, monkeypatch, n_tokens - 1)
    with pytest.raises(InvalidRequest, match=f"Rendered chat too long: {n_tokens} tokens, max is {n_tokens - 1}"):
        front.compute(apply_chat_template, {"messages": MESSAGES})


def limit_to(front: Front, monkeypatch: pytest.MonkeyPatch, token_limit: int) -> None:
    import dataclasses

    description = front.served.description
    limits = dataclasses.replace(description.limits, token_limit=token_limit)
    served = dataclasses.replace(front.served, description=dataclasses.replace(description, limits=limits))
    monkeypatch.setattr(front, "served", served)


def test_a_model_without_a_template_says_so(front: Front) -> None:
    with pytest.raises(InvalidRequest, match="chat template"):
        front.compute(apply_chat_template, {"messages": MESSAGES})
