r"""A text as all graph routes read it, so that a position means the same token to each of them.

Transcoders were trained behind a special token, which attention uses as a sink. So a prompt begins with one:

    its first token is BOS                     the prompt as it is
    the tokenizer writes BOS by itself         BOS in front
    its first token is another special one     the prompt as it is
    else                                       the first that there is of BOS, padding, EOS, any special token

What tells that a token is missing is `None`; 0 is an id like any other. circuit-tracer's rule is the same but for two
things: it takes an id of 0 for a missing one, and leaves out BOS before another special token (`<start_of_turn>`).

Features at the first position count as inactive. Instruction-tuned Gemma 3 spreads its sink over the first turn's
opening, `<bos><start_of_turn>user\n`: there every prompt has to begin so, and all of it counts as inactive.
"""

import re
from typing import Final

from core.errors import InvalidRequest
from core.graph.requests import GraphPrompt
from core.prompts import PromptTokenizer, TokenLimit

_GEMMA_3_IT: Final = re.compile(r"(?:.*/)?gemma-3-\w+-it")
_GEMMA_3_OPENING: Final = "<bos><start_of_turn>user\n"


def prompt_tokens(
    tokenizer: PromptTokenizer, text: str, weights: str = "", limit: TokenLimit | None = None
) -> GraphPrompt:
    """Tokenises a text; special tokens written out in it are recognised.

    Args:
        tokenizer: The model's.
        text: The text.
        weights: Hugging Face id of the model, by which instruction-tuned Gemma 3 is known.
        limit: How long the text may be. Special tokens that are added here do not count.

    Raises:
        InvalidRequest: The text is too long, not Unicode, nothing at all, or no beginning for this model.
    """
    ids = tuple(tokenizer.encode_rendered(text, limit).ids)
    first = _missing_first(tokenizer, ids)
    if first is not None:
        ids = (first, *ids)
    if not ids:
        raise InvalidRequest("The prompt is empty", "Send `prompt` or `messages`.")
    if not _GEMMA_3_IT.fullmatch(weights):
        return GraphPrompt(ids, n_silent=1)
    opening = tuple(tokenizer.encode_rendered(_GEMMA_3_OPENING).ids)
    if ids[: len(opening)] != opening:
        raise InvalidRequest(
            "A prompt for this model must begin with the turn of a user",
            "Send `messages`, or begin the prompt with <start_of_turn>user and a line break.",
        )
    return GraphPrompt(ids, n_silent=len(opening))


def _missing_first(tokenizer: PromptTokenizer, ids: tuple[int, ...]) -> int | None:
    """The special token to put in front; None where none is missing, or the tokenizer has none."""
    hf = tokenizer.hf
    if ids and ids[0] == tokenizer.bos_id:
        return None
    if tokenizer.adds_bos:
        return tokenizer.bos_id
    if ids and ids[0] in tokenizer.special_ids:
        return None
    candidates = (tokenizer.bos_id, hf.pad_token_id, hf.eos_token_id, *sorted(tokenizer.special_ids))
    return next((id_ for id_ in candidates if id_ is not None), None)


def without_bos(tokenizer: PromptTokenizer, text: str) -> str:
    """A text without the one BOS literal that it may begin with."""
    return text.removeprefix(tokenizer.hf.bos_token or "")


def bos_positions(tokenizer: PromptTokenizer, ids: tuple[int, ...]) -> tuple[int, ...]:
    """Positions that hold BOS. Nothing is steered there."""
    return tuple(at for at, id_ in enumerate(ids) if id_ == tokenizer.bos_id)
