"""Many questions, one forward pass, one encoding per SAE.

    questions --reader_for--> readers --needs--> one capture --> per source: encode the rows of every question
    that wants it, in slices of bounded size, and hand each its part --> finish

A question that is wrong fails alone: its exception takes the place of its answer and the others are not disturbed.
"""

from collections.abc import Sequence
from typing import Any

import torch

from core.engine.model import EagerModel
from core.errors import RayscopeError
from core.questions import EncoderVectorAnswer, EncoderVectorLookup, Lookup, NeighboursAnswer, Question
from core.readings.reader import Reader, Row, Saes
from core.readings.readers import reader_for
from core.saes.encoder import LoadedSae
from core.saes.neighbours import decoder_row, nearest_by_decoder

# Activations of one encoding slice: 256 MiB in float32.
_MAX_ENCODED_NUMBERS = 2**26


@torch.inference_mode()
def answer_batch(model: EagerModel, asked: Sequence[tuple[Question, Saes]]) -> list[Any | Exception]:
    """Answers questions together. Runs on the device's thread.

    Args:
        model: The model that all questions are about.
        asked: Each question with the SAEs that it names, held resident by the caller.

    Returns:
        In order, each question's answer or the error that concerns it alone.
    """
    results: list[Any | Exception] = [None] * len(asked)
    readers: dict[int, Reader] = {}
    for place, (question, saes) in enumerate(asked):
        try:
            model.check_prompt(question.tokens)
            reader = reader_for(question, saes)
            for name in reader.needs.hook_names:
                model.hook_points[name]
            for layer in reader.needs.attention_layers:
                model.check_attention(layer)
            readers[place] = reader
        except RayscopeError as error:
            results[place] = error
    if not readers:
        return results
    places = list(readers)
    capture = model.capture(
        [asked[place][0].tokens for place in places],
        frozenset[str]().union(*(reader.needs.hook_names for reader in readers.values())),
        frozenset[int]().union(*(reader.needs.attention_layers for reader in readers.values())),
    )
    rows = {place: Row(capture, number, len(asked[place][0].tokens)) for number, place in enumerate(places)}
    for source, wanting in _by_source(readers).items():
        _encode_for(asked[wanting[0]][1][source], source, [(readers[place], rows[place]) for place in wanting])
    for place, reader in readers.items():
        try:
            results[place] = reader.finish(rows[place])
        except RayscopeError as error:
            results[place] = error
    return results


@torch.inference_mode()
def answer_lookup(lookup: Lookup, saes: Saes) -> Any:
    """Answers what weights alone can tell. Runs on the device's thread."""
    sae = saes[lookup.source]
    if isinstance(lookup, EncoderVectorLookup):
        vector = sae.encoder_vector(lookup.index).float().cpu().numpy()
        return EncoderVectorAnswer(vector, sae.hook_name)
    if lookup.index is not None:
        query = decoder_row(sae, lookup.index)
    else:
        query = torch.tensor(lookup.vector, dtype=torch.float32)
    return NeighboursAnswer(*nearest_by_decoder(sae, query, lookup.k))


def _by_source(readers: dict[int, Reader]) -> dict[str, list[int]]:
    """Source to the places of the questions that want it encoded."""
    wanting: dict[str, list[int]] = {}
    for place, reader in readers.items():
        for source in reader.needs.encodings:
            wanting.setdefault(source, []).append(place)
    return wanting


def _encode_for(sae: LoadedSae, source: str, wanting: list[tuple[Reader, Row]]) -> None:
    """Encodes a source over the rows that want it and hands every reader its own."""
    if sae.sequential:
        for reader, row in wanting:
            reader.absorb(source, sae.encode(row.activation(sae.hook_name)))
        return
    limit_rows = max(1, _MAX_ENCODED_NUMBERS // sae.d_sae)
    start = 0
    while start < len(wanting):
        end, total = start, 0
        while end < len(wanting) and (end == start or total + wanting[end][1].length <= limit_rows):
            total += wanting[end][1].length
            end += 1
        group = wanting[start:end]
        stacked = torch.cat([row.activation(sae.hook_name) for _, row in group])
        encoded = sae.encode(stacked)
        for (reader, _), part in zip(group, encoded.split([row.length for _, row in group]), strict=True):
            reader.absorb(source, part)
        start = end
