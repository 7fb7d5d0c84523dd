"""The bytes of a token. A token may hold part of a character only, and then it has bytes but no text of its own."""

import re
from functools import cache
from typing import Any, Final

from core.prompts import PromptTokenizer

_INCOMPLETE: Final = "\ufffd"
_FALLBACK: Final = re.compile(r"<0x([0-9A-F]{2})>")  # how SentencePiece vocabularies write a single byte


def token_bytes(tokenizer: PromptTokenizer, token: int) -> bytes:
    """The bytes that a token adds to a text."""
    text = tokenizer.str_tokens([token])[0]
    if _INCOMPLETE not in text:
        return text.encode()
    piece: Any = tokenizer.hf.convert_ids_to_tokens(token)
    fallback = _FALLBACK.fullmatch(piece)
    if fallback is not None:
        return bytes.fromhex(fallback[1])
    letters = _byte_letters()
    if all(letter in letters for letter in piece):
        return bytes(letters[letter] for letter in piece)
    return text.encode()


@cache
def _byte_letters() -> dict[str, int]:
    """The alphabet of byte-level vocabularies: printable bytes stand for themselves, the others for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}
