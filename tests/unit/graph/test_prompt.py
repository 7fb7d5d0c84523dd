"""One tokenisation for all graph routes."""

from typing import Any

import pytest

from core.errors import InvalidRequest
from core.graph.prompt import bos_positions, prompt_tokens, without_bos
from core.prompts import PromptTokenizer, TokenLimit
from tests.unit import tiny_tokenizers as tiny

TEXT = "the cat sleeps"


def plain(hf: Any, text: str) -> list[int]:
    return hf(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("build", [tiny.gemma, tiny.llama2, tiny.llama3])
def test_a_tokenizer_that_writes_bos_writes_it_once(build: Any) -> None:
    hf = build()
    tokenizer = PromptTokenizer(hf)
    wanted = (hf.bos_token_id, *plain(hf, TEXT))
    assert prompt_tokens(tokenizer, TEXT).ids == wanted == tuple(build()(TEXT)["input_ids"])
    assert prompt_tokens(tokenizer, hf.bos_token + TEXT).ids == (
        hf.bos_token_id,
        *plain(build(), hf.bos_token + TEXT)[1:],
    )
    assert prompt_tokens(tokenizer, "").ids == (hf.bos_token_id,)


def test_a_bos_whose_id_is_0_is_a_bos() -> None:
    hf = tiny.gpt2()
    hf.add_special_tokens({"pad_token": "<pad>"})
    assert hf.bos_token_id == 0
    assert hf.pad_token_id > 0
    tokenizer = PromptTokenizer(hf)
    assert prompt_tokens(tokenizer, TEXT).ids == (0, *plain(hf, TEXT))
    assert prompt_tokens(tokenizer, f"<|endoftext|>{TEXT}").ids == (0, *plain(hf, TEXT))
    assert bos_positions(tokenizer, (0, 5, 0)) == (0, 2)


def test_without_a_bos_padding_stands_in_then_eos() -> None:
    hf = tiny.qwen()
    assert hf.bos_token_id is None
    tokenizer = PromptTokenizer(hf)
    assert prompt_tokens(tokenizer, TEXT).ids == (hf.pad_token_id, *plain(hf, TEXT))
    assert bos_positions(tokenizer, prompt_tokens(tokenizer, TEXT).ids) == ()
    hf = tiny.qwen()
    hf.pad_token = None
    assert prompt_tokens(PromptTokenizer(hf), TEXT).ids == (hf.eos_token_id, *plain(hf, TEXT))


def test_a_special_token_in_front_is_enough_where_the_tokenizer_writes_no_bos() -> None:
    hf = tiny.qwen()
    text = f"<|im_start|>user\n{TEXT}"
    assert prompt_tokens(PromptTokenizer(hf), text).ids == tuple(plain(hf, text))
    hf = tiny.gemma()
    text = f"<start_of_turn>user\n{TEXT}"
    assert prompt_tokens(PromptTokenizer(hf), text).ids == (hf.bos_token_id, *plain(hf, text))


def test_only_the_first_position_is_silent() -> None:
    assert prompt_tokens(PromptTokenizer(tiny.gemma()), TEXT, "google/gemma-2-2b-it").n_silent == 1
    assert prompt_tokens(PromptTokenizer(tiny.gemma()), TEXT, "google/gemma-3-4b-pt").n_silent == 1


def test_gemma_3_is_silent_until_its_first_turn_is_open() -> None:
    hf = tiny.gemma()
    tokenizer = PromptTokenizer(hf)
    opening = plain(tiny.gemma(), "<bos><start_of_turn>user\n")
    for text in (f"<start_of_turn>user\n{TEXT}", f"<bos><start_of_turn>user\n{TEXT}"):
        for weights in ("google/gemma-3-4b-it", "gemma-3-270m-it", "/models/gemma-3-1b-it"):
            prompt = prompt_tokens(tokenizer, text, weights)
            assert prompt.n_silent == len(opening) > 1
            assert prompt.ids[: len(opening)] == tuple(opening)
    for text in (TEXT, "", f"<start_of_turn>model\n{TEXT}"):
        with pytest.raises(InvalidRequest, match="must begin with the turn of a user"):
            prompt_tokens(tokenizer, text, "google/gemma-3-4b-it")


def test_what_is_added_does_not_count_as_long() -> None:
    hf = tiny.gemma()
    tokenizer = PromptTokenizer(hf)
    n_tokens = len(plain(tiny.gemma(), TEXT))
    assert len(prompt_tokens(tokenizer, TEXT, limit=TokenLimit(n_tokens)).ids) == n_tokens + 1
    with pytest.raises(InvalidRequest, match=f"{n_tokens} tokens, max is {n_tokens - 1}"):
        prompt_tokens(tokenizer, TEXT, limit=TokenLimit(n_tokens - 1))


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        prompt_tokens(PromptTokenizer(tiny.gemma()), "a \ud800")


def test_one_bos_is_stripped_and_no_more() -> None:
    gemma, qwen = PromptTokenizer(tiny.gemma()), PromptTokenizer(tiny.qwen())
    assert without_bos(gemma, f"<bos>{TEXT}") == TEXT
    assert without_bos(gemma, f"<bos><bos>{TEXT}") == f"<bos>{TEXT}"
    assert without_bos(gemma, f" <bos>{TEXT}") == f" <bos>{TEXT}"
    assert without_bos(qwen, f"<|endoftext|>{TEXT}") == f"<|endoftext|>{TEXT}"
