"""Generated tokens as text, while they come."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.demo import ARTEFACTS
from core.generation.text import GrowingText
from core.prompts import PromptTokenizer

TOKENIZER = PromptTokenizer.load(str(ARTEFACTS / "model"))
PROMPT = TOKENIZER.bos_prompt("Le chat").ids


@given(text=st.text(max_size=40), cuts=st.lists(st.integers(1, 5), max_size=60), peek=st.booleans())
def test_what_is_read_bit_by_bit_is_the_whole_text(text: str, cuts: list[int], peek: bool) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    ids = TOKENIZER.tokenize(text, False).ids
    growing = GrowingText(TOKENIZER, PROMPT)
    at, seen = 0, ""
    for size in cuts:
        growing.push(ids[at : at + size])
        at += size
        if peek:
            now = growing.read()
            assert now.startswith(seen)
            seen = now
    growing.push(ids[at:])
    assert growing.read(final=True) == TOKENIZER.decode(ids)
    assert growing.ids == ids


def test_hidden_tokens_are_kept_but_not_shown() -> None:
    eos = TOKENIZER.hf.eos_token_id
    growing = GrowingText(TOKENIZER, PROMPT, [eos])
    growing.push([*TOKENIZER.tokenize(" dort", False).ids, eos])
    assert growing.read() == " dort"
    assert growing.ids[-1] == eos


def test_reading_a_long_text_decodes_each_token_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0
    decode = TOKENIZER.decode

    def counting(ids: Any) -> str:
        nonlocal decoded
        decoded += len(ids)
        return decode(ids)

    monkeypatch.setattr(TOKENIZER, "decode", counting)
    growing = GrowingText(TOKENIZER, PROMPT)
    ids = TOKENIZER.tokenize("Le chat dort sur le tapis. " * 100, False).ids
    for id_ in ids:
        growing.push([id_])
        growing.read()
    assert decoded < 5 * len(ids)
