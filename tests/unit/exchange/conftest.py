"""Front doors, open for as long as the tests of one file run, and the tokens that a client should see."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gpt2_with_saes import Gpt2WithSaes, Truth
from tests.tiny_models import GPT2_ID

from .front import BOS, Front, open_front, tokenizer_file


class Tokens:
    """What plain `transformers` makes of a text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def ids(self, text: str, *, bos: bool = True) -> tuple[int, ...]:
        """Token ids, with exactly one BOS in front or none."""
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        first = self._tokenizer.convert_tokens_to_ids(BOS)
        return tuple(ids if not bos or ids[:1] == [first] else [first, *ids])

    def strings(self, text: str, *, bos: bool = True) -> list[str]:
        """Each token as text."""
        return [self._tokenizer.decode([token]) for token in self.ids(text, bos=bos)]


@pytest.fixture(scope="session")
def tokens(hub: Path) -> Tokens:
    from transformers import AutoTokenizer

    return Tokens(AutoTokenizer.from_pretrained(GPT2_ID))


@pytest.fixture(scope="session")
def truth(world: Gpt2WithSaes) -> Truth:
    return world.truth


@pytest.fixture(scope="module")
def front(world: Gpt2WithSaes) -> Iterator[Front]:
    """GPT-2's tokenizer: it has a BOS but never writes it."""
    from transformers import AutoTokenizer

    with open_front(world, AutoTokenizer.from_pretrained(GPT2_ID)) as opened:
        yield opened


@pytest.fixture(scope="module")
def front_without_bos(world: Gpt2WithSaes, hub: Path) -> Iterator[Front]:
    """The same vocabulary in a tokenizer that knows no BOS, as Qwen's."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file(hub)), eos_token=BOS)
    assert tokenizer.bos_token is None
    with open_front(world, tokenizer) as opened:
        yield opened
