"""The cache salt: which sequences may share vLLM's cached keys and values.

A steered sequence leaves other keys and values behind than an unsteered one with the same tokens, so vLLM must never
take the ones for the others. Its block hashes start from a salt; ours is a hash of everything about the steering that
changes what a given token at a given position leaves behind:

    steps            sites, contents of the vectors, coefficients, order
    spared           the positions that special tokens keep unsteered
    prompt length    only where it decides what is steered, that is unless all positions are

Two sequences steered alike everywhere therefore share their common prefix, also across the turns of a conversation.
Where special tokens are spared, the turns share nothing, because each adds some: which positions are spared is hashed
instead of the mere wish, for a special token that was *generated* is steered, and the next turn, where it belongs to
the prompt, must not find it.
"""

import struct
from hashlib import blake2b

from core.steerer.request import Program


def cache_salt(program: Program | None, prompt_length: int) -> str | None:
    """The salt of a sequence, None where the model is left alone.

    Args:
        program: How the sequence is steered.
        prompt_length: Tokens of its prompt.
    """
    if program is None:
        return None
    hashed = blake2b(digest_size=16)
    for step in program.steps:
        hashed.update(struct.pack("<i5f", step.site, *step.coefficients))
        hashed.update(bytes.fromhex(step.read + step.write))
    hashed.update(struct.pack(f"<i{len(program.spared)}i", len(program.spared), *program.spared))
    if program.positions != "all":
        hashed.update(f"{program.positions} {prompt_length}".encode())
    return hashed.hexdigest()
