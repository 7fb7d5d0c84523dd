"""Seeds by name: every random choice has its own stream, told by what it is for.

A seed is made from words such as a feature's name and a scorer's, so no choice depends on which others were made before
it, or in which order features are worked on. `hash()` would not do: it differs from process to process.
"""

import hashlib
from typing import Final

_BYTES: Final = 8


def derive_seed(*parts: object) -> int:
    """A 64-bit seed from the texts of `parts`: the first eight bytes of the SHA-256 of all, each with its length."""
    digest = hashlib.sha256()
    for part in parts:
        text = str(part).encode()
        digest.update(len(text).to_bytes(_BYTES, "big"))
        digest.update(text)
    return int.from_bytes(digest.digest()[:_BYTES], "big")
