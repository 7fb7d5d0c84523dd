"""Tokens have bytes, also those that hold only a part of a character."""

import pytest
import tiny_tokenizers as tiny

from core.generation.token_bytes import token_bytes
from core.prompts import PromptTokenizer

TOKENIZERS = {build.__name__: PromptTokenizer(build()) for build in (tiny.gpt2, tiny.llama3, tiny.qwen)}
FALLBACK = {build.__name__: PromptTokenizer(build()) for build in (tiny.gemma, tiny.llama2)}
TEXT = "naïve été 🐈‍⬛ 中文 \ufffd\n\t x"


@pytest.mark.parametrize("name", list(TOKENIZERS))
def test_the_bytes_of_all_tokens_are_those_of_the_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.hf(TEXT, add_special_tokens=False)["input_ids"]
    assert b"".join(token_bytes(tokenizer, token) for token in ids) == TEXT.encode()


@pytest.mark.parametrize("name", list(FALLBACK))
def test_a_byte_of_a_sentencepiece_vocabulary_is_that_byte(name: str) -> None:
    tokenizer = FALLBACK[name]
    ids = tokenizer.hf("🐈", add_special_tokens=False)["input_ids"]
    assert b"".join(token_bytes(tokenizer, token) for token in ids).strip() == "🐈".encode()
