"""Texts with some of their tokens marked `<<like this>>`: how explainers and judges are shown where a feature fires.

Neighbouring marked tokens share one pair of marks. Which tokens are marked is the caller's: the strong ones to be true,
chosen ones that are not to be false.
"""

from collections.abc import Collection, Sequence
from itertools import groupby
from random import Random

from core.autointerp.examples import Example


def mark(tokens: Sequence[str], positions: Collection[int]) -> str:
    """The text with the tokens at these positions marked."""
    runs = groupby(range(len(tokens)), key=lambda position: position in positions)
    texts = ((is_marked, "".join(tokens[position] for position in run)) for is_marked, run in runs)
    return "".join(f"<<{text}>>" if is_marked else text for is_marked, text in texts)


def strong_positions(example: Example, share: float) -> frozenset[int]:
    """Where the activation is at least this share of the example's strongest; nowhere if the feature is silent."""
    if example.maximum <= 0:
        return frozenset()
    floor = share * example.maximum
    return frozenset(i for i, activation in enumerate(example.activations) if activation >= floor)


def false_positions(example: Example, share: float, count: int, rng: Random) -> frozenset[int]:
    """Positions to be marked wrongly, drawn where the activation is at most this share of the example's strongest.

    Args:
        example: The text.
        share: Of its strongest activation.
        count: How many, or all there are if there are fewer.
        rng: Draws them.

    Returns:
        Positions; empty if the feature is strong at every token.
    """
    ceiling = share * max(example.maximum, 0.0)
    weak = [i for i, activation in enumerate(example.activations) if activation <= ceiling]
    return frozenset(rng.sample(weak, min(count, len(weak))))
