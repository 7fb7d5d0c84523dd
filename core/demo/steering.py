"""Steering with one feature, the smallest way there is: add a multiple of its decoder row at every position.

This is the reference the steering demos are compared with, in plain `transformers` and a forward hook, and the
measure of how well it works: the share of French prompts that the model continues in Spanish. Languages are told
apart by words that the corpus uses in one language only; no model judges.
"""

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.demo.corpus import documents
from core.demo.languages import LANGUAGES, Language
from core.demo.model import pad_rows
from core.demo.tokenizer import END_ID, EOS_ID, PAD_ID

FRENCH_PROMPTS: tuple[str, ...] = (
    "Le chat dort sur",
    "Le chien saute par-dessus",
    "La capitale de la France est",
    "Aujourd'hui, Marie est",
    "Le matin, Pierre",
    "Elle mange",
    "Il boit une tasse de",
    "Le film était",
    "Je voudrais",
    "Il fait froid et",
    "C'était une belle",
    "Les enfants chantent",
    "Près de la rivière,",
    "Le soir, Camille rentre",
    "La couleur de la neige est",
    "Soudain, ils voient",
    "Ils jouent ensemble",
    "Le médecin travaille dans",
    "Le contraire de grand est",
    "Quand le cheval a faim,",
    "Hugo achète",
    "Tout le monde",
    "Après le déjeuner, Anna",
    "Toute la famille",
)
"""Beginnings of French sentences; none of them names another language."""

_WORD = re.compile(r"[^\W\d_]+")


@cache
def own_words() -> dict[Language, frozenset[str]]:
    """For each language the lower-case words only its documents use."""
    used: dict[Language, set[str]] = {language: set() for language in LANGUAGES}
    for document in documents(seed=101, count=6000):
        if document.language is not None and document.kind not in ("vocabulary", "miscellany", "fact", "chat"):
            used[document.language].update(_WORD.findall(document.text.lower()))
    return {
        language: frozenset(mine.difference(*(used[other] for other in LANGUAGES if other != language)))
        for language, mine in used.items()
    }


def language_of(text: str) -> Language | None:
    """The language most of whose own words occur in the text, or None without a majority."""
    found = _WORD.findall(text.lower())
    counts = {language: sum(word in own for word in found) for language, own in own_words().items()}
    best: Language = max(LANGUAGES, key=lambda language: counts[language])
    return best if counts[best] * 2 > sum(counts.values()) else None


@contextmanager
def steered(model: LlamaForCausalLM, layer: int, direction: Tensor, strength: float) -> Generator[None]:
    """While open, `strength * direction` is added to the residual stream after a layer, at every position.

    Args:
        model: The model.
        layer: The hook point is `blocks.<layer>.hook_resid_post`.
        direction: `[d]`, a decoder row.
        strength: In units of the row's norm, which is 1 in the shipped sets.
    """
    added = strength * direction

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + added, *output[1:])
        return output + added

    handle = cast("Any", model.model.layers[layer]).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def complete(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], new_tokens: int = 20
) -> list[str]:
    """Greedy continuations of prompts, without the prompts, up to the end of the document or of the chat turn.

    All prompts run in one batch without a cache: padding is on the right, where a causal model cannot see it.
    """
    rows: list[list[int]] = tokenizer(list(prompts))["input_ids"]  # pyright: ignore[reportAssignmentType]
    starts = [len(row) for row in rows]
    running = set(range(len(rows)))
    for _ in range(new_tokens):
        order = sorted(running)
        logits = model(input_ids=pad_rows([rows[i] for i in order], PAD_ID), use_cache=False).logits
        for at, i in enumerate(order):
            choice = int(logits[at, len(rows[i]) - 1].argmax())
            rows[i].append(choice)
            if choice in (EOS_ID, END_ID):
                running.discard(i)
        if not running:
            break
    return [
        str(tokenizer.decode(row[start:], skip_special_tokens=True)) for row, start in zip(rows, starts, strict=True)
    ]


def is_fluent(text: str) -> bool:
    """Whether the text is more than one word said over and over, as too strong a push makes it."""
    found = _WORD.findall(text.lower())
    return len(set(found)) >= max(1, 0.5 * len(found))


def share_in(language: Language, texts: Sequence[str]) -> float:
    """Share of the texts that are in the language and not mere repetition."""
    return sum(language_of(text) == language and is_fluent(text) for text in texts) / len(texts)
