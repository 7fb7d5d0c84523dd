"""What a feature could stand for: for every token of a document, which known concepts apply to it.

The corpus knows what it wrote, so a concept is exact: the language of the document (for words that only one language
uses), the words of a table of the world, the turn of a chat. A concept is either about the token itself ("a weekday")
or about what comes next ("about to name a capital"), because both kinds of feature exist in a language model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from core.demo import world
from core.demo.chats import PERSONAS, SYSTEM
from core.demo.corpus import Document
from core.demo.languages import LANGUAGES, Language, Word
from core.demo.steering import own_words
from core.demo.stories import BAD, GOOD

LANGUAGE_CONCEPTS: dict[Language, str] = {"en": "English", "fr": "French", "es": "Spanish"}

_TABLES: dict[str, tuple[Word, ...]] = {
    "a capital": world.CAPITALS,
    "a country": world.COUNTRIES,
    "a weekday": world.DAYS,
    "a month": world.MONTHS,
    "a number word": world.NUMBERS,
    "a colour": world.COLOURS,
    "an animal": world.ANIMALS,
    "a sport": world.SPORTS,
    "an instrument": world.INSTRUMENTS,
    "a profession": (*world.PROFESSIONS, *world.PROFESSIONS_OF_WOMEN),
    "a workplace": world.WORKPLACES,
    "a woman's name": tuple(person.who for person in world.PEOPLE if person.woman),
    "a man's name": tuple(person.who for person in world.PEOPLE if not person.woman),
}
_NEXT = ("a capital", "a weekday", "a number word", "a colour", "an animal", "a sport", "a country")
_TURN = re.compile(r"<\|(system|user|assistant)\|>\n(.*?)<\|end\|>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Labels:
    """Concepts of many tokens.

    Attributes:
        names: Concept names.
        holds: `[token, concept]`, whether the concept applies.
        counts: `[token, concept]`, whether the token is evidence for or against the concept at all.
    """

    names: tuple[str, ...]
    holds: Tensor
    counts: Tensor


@cache
def concept_names() -> tuple[str, ...]:
    """All concepts, in the order of the label columns."""
    return (
        *LANGUAGE_CONCEPTS.values(),
        "digits",
        "a number in digits or words",
        *_TABLES,
        *(f"about to name {name}" for name in _NEXT),
        "praise",
        "blame",
        "a question of the user",
        "a reply of the assistant",
        "a reply in character",
    )


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    tables = {name: {w.bare(lang) for w in table for lang in LANGUAGES} for name, table in _TABLES.items()}
    tables["praise"] = {form for adjective in GOOD for form in adjective}
    tables["blame"] = {form for adjective in BAD for form in adjective}
    return {
        name: re.compile(
            r"(?<!\w)(?:" + "|".join(sorted(map(re.escape, forms), key=len, reverse=True)) + r")(?!\w)", re.IGNORECASE
        )
        for name, forms in tables.items()
    }


def label(tokenizer: PreTrainedTokenizerFast, document: Document, limit: int) -> tuple[Tensor, Tensor]:
    """Concepts of every token of one document.

    Args:
        tokenizer: The demo tokenizer.
        document: The document.
        limit: How many tokens its row has, `<bos>` and `<eos>` included.

    Returns:
        `holds` and `counts`, both bool `[limit, concept]`.
    """
    names = concept_names()
    column = {name: i for i, name in enumerate(names)}
    holds = torch.zeros(limit, len(names), dtype=torch.bool)
    counts = torch.ones(limit, len(names), dtype=torch.bool)
    spans: list[tuple[int, int]] = tokenizer(document.text, return_offsets_mapping=True)["offset_mapping"]  # pyright: ignore[reportAssignmentType]
    spans = spans[:limit]
    pieces = [document.text[a:b] for a, b in spans]
    _label_language(document, pieces, holds, counts, column)
    for i, piece in enumerate(pieces):
        holds[i, column["digits"]] = any(c.isdigit() for c in piece)
    for name, pattern in _patterns().items():
        for match in pattern.finditer(document.text):
            inside = [i for i, (a, b) in enumerate(spans) if a < match.end() and b > match.start()]
            if not inside:
                continue
            counts[inside[:-1], column[name]] = False
            holds[inside[-1], column[name]] = True
            if name in _NEXT:
                holds[inside[0] - 1, column[f"about to name {name}"]] = True
    number = column["a number in digits or words"]
    holds[:, number] = holds[:, column["digits"]] | holds[:, column["a number word"]]
    counts[:, number] = counts[:, column["a number word"]]
    _label_turns(document, spans, holds, column)
    return holds, counts


def _label_language(
    document: Document, pieces: Sequence[str], holds: Tensor, counts: Tensor, column: dict[str, int]
) -> None:
    words = torch.zeros(len(holds), dtype=torch.bool)
    own = own_words()
    for i, piece in enumerate(pieces):
        word = piece.strip().lower()
        words[i] = any(word in own[language] for language in LANGUAGES)
    for language, name in LANGUAGE_CONCEPTS.items():
        counts[:, column[name]] = words if document.language is not None else False
        holds[:, column[name]] = words & (document.language == language)


def _label_turns(document: Document, spans: Sequence[tuple[int, int]], holds: Tensor, column: dict[str, int]) -> None:
    if document.kind != "chat":
        return
    characters = {prompt for persona in PERSONAS[1:] for prompt in SYSTEM[persona]}
    played = any(turn[2] in characters for turn in _TURN.finditer(document.text) if turn[1] == "system")
    for turn in _TURN.finditer(document.text):
        inside = [i for i, (a, b) in enumerate(spans) if turn.start(2) <= a and b <= turn.end(2) and a < b]
        if turn[1] == "user":
            holds[inside, column["a question of the user"]] = True
        elif turn[1] == "assistant":
            holds[inside, column["a reply in character" if played else "a reply of the assistant"]] = True


def label_all(
    tokenizer: PreTrainedTokenizerFast,
    documents: Sequence[Document],
    row: Tensor,
    position: Tensor,
    lengths: Sequence[int],
) -> Labels:
    """Concepts of the tokens of an `Activations`, in its order.

    Args:
        tokenizer: The demo tokenizer.
        documents: The documents that were run.
        row: `[token]`, document of each token.
        position: `[token]`, position of each token.
        lengths: Row length of each document.

    Returns:
        The labels of every token.
    """
    labelled = [label(tokenizer, d, n) for d, n in zip(documents, lengths, strict=True)]
    starts = torch.tensor([0, *lengths]).cumsum(0)
    flat = starts[row] + position
    return Labels(
        concept_names(),
        torch.cat([holds for holds, _ in labelled])[flat],
        torch.cat([counts for _, counts in labelled])[flat],
    )
