"""Targets: which outputs a graph explains, and the directions from which their rows begin.

    last logits --salient_tokens--> token ids --+
    the caller's tokens and directions ---------+--Unembedding--> Targets: LogitNodes + TargetRows at the last position

A token's direction is its unembedding row less the mean of all, so that its row tells what raised this token above the
others; a constant that all logits share explains nothing (Ameisen et al. 2025, "Circuit Tracing"). Directions are those
of the logits before a softcap. Probabilities are what the model says, softcap included.

Deliberately not here: texts to token ids and back (the caller has the tokenizer), and limits on how many targets a
request may name.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from core.errors import InvalidRequest, RayscopeError
from core.graph.effects import LogitNodes
from core.graph.linearised import TargetRows


@dataclass(frozen=True, slots=True, eq=False)
class Unembedding:
    """The matrix that reads logits off the normalised final residual. One per model; the mean is taken once.

    Attributes:
        rows: `[vocabulary, d]`, one row per token.
        mean: `[d]` float32, of all rows.
    """

    rows: Tensor
    mean: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Self:
        """With its mean, summed in float32 whatever the dtype of the rows."""
        return cls(rows, rows.detach().mean(0, dtype=torch.float32))

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return len(self.rows)

    def directions(self, token_ids: Sequence[int]) -> Tensor:
        """Rows of tokens less the mean, `[m, d]` float32."""
        chosen = torch.tensor(token_ids, dtype=torch.int64, device=self.rows.device)
        return self.rows.detach()[chosen].float() - self.mean


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """A target that is no token: any direction of the normalised final residual, such as a difference of two tokens.

    Attributes:
        label: What it is called in the graph.
        weight: What it counts for next to the other targets, where tokens have their probability; above 0.
        vector: `[d]`, used as it is: nothing is subtracted.
    """

    label: str
    weight: float
    vector: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What a graph explains.

    Attributes:
        nodes: The m targets, the heaviest first.
        rows: Their directions, in the same order, at the last position and behind the last layer.
    """

    nodes: LogitNodes
    rows: TargetRows


@dataclass(frozen=True, slots=True)
class Place:
    """Where logits are read: the number of layers and the last position of the prompt."""

    n_layers: int
    position: int


def salient_tokens(logits: Tensor, max_n_logits: int, desired_logit_prob: float) -> tuple[Tensor, Tensor]:
    """The most probable next tokens: the shortest list that has the wanted probability, but no more than asked for.

    At least one token, and never more than there are. Equal probabilities are settled by token id, the lower first.

    Args:
        logits: Of the last position, `[vocabulary]`, as the model gives them.
        max_n_logits: Longest list.
        desired_logit_prob: Stop with the token that brings the sum up to this; above 1 it never stops early.

    Returns:
        Token ids `[m]` int64 and their probabilities `[m]` float32.

    Raises:
        InvalidRequest: `max_n_logits` is less than 1, or `desired_logit_prob` is not a number.
        RayscopeError: The model's logits are not numbers.
    """
    if max_n_logits < 1:
        raise InvalidRequest(f"max_n_logits is {max_n_logits}; a graph explains at least one token")
    if math.isnan(desired_logit_prob):
        raise InvalidRequest("desired_logit_prob is not a number", "Send a probability from 0 to 1.")
    probabilities = _probabilities(logits)
    count = min(max_n_logits, len(probabilities))
    least = probabilities.topk(count).values[-1]
    candidates = (probabilities >= least).nonzero().squeeze(1)
    order = torch.sort(probabilities[candidates], descending=True, stable=True).indices[:count]
    token_ids = candidates[order]
    reached = probabilities[token_ids].cpu().double().cumsum(0) >= desired_logit_prob
    first = int(reached.nonzero()[0]) + 1 if bool(reached.any()) else count
    return token_ids[:first], probabilities[token_ids[:first]]


def salient_targets(
    logits: Tensor,
    unembedding: Unembedding,
    place: Place,
    labels: Callable[[int], str],
    *,
    max_n_logits: int = 10,
    desired_logit_prob: float = 0.95,
) -> Targets:
    """The most probable next tokens as targets; see `salient_tokens`.

    Args:
        logits: Of the last position, `[vocabulary]`, as the model gives them.
        unembedding: The model's.
        place: Where the rows begin.
        labels: The text of a token id.
        max_n_logits: Most targets.
        desired_logit_prob: Probability that is enough.

    Raises:
        InvalidRequest: See `salient_tokens`.
        RayscopeError: The model's logits are not numbers.
    """
    token_ids, probabilities = salient_tokens(logits, max_n_logits, desired_logit_prob)
    ids = [int(token) for token in token_ids.tolist()]
    return _targets(ids, [labels(token) for token in ids], probabilities, unembedding.directions(ids), place)


def custom_targets(
    wanted: Sequence[int | Direction],
    logits: Tensor,
    unembedding: Unembedding,
    place: Place,
    labels: Callable[[int], str],
) -> Targets:
    """The targets that a caller names: token ids, or directions of their own.

    A direction gets the id `vocabulary + its place in the list`, which no token has.

    Args:
        wanted: Token ids and directions, in any order.
        logits: Of the last position, `[vocabulary]`: where the tokens' probabilities come from.
        unembedding: The model's.
        place: Where the rows begin.
        labels: The text of a token id.

    Raises:
        InvalidRequest: Nothing is named, a token is named twice or does not exist, or a direction does not fit.
        RayscopeError: The model's logits are not numbers.
    """
    if not wanted:
        raise InvalidRequest("The list of targets is empty", "Name a target, or leave the list out.")
    tokens = [target for target in wanted if not isinstance(target, Direction)]
    _check_tokens(tokens, unembedding.vocabulary)
    probabilities = _probabilities(logits)
    known = unembedding.directions(tokens)
    ids: list[int] = []
    texts: list[str] = []
    weights: list[float] = []
    vectors: list[Tensor] = []
    for number, target in enumerate(wanted):
        if isinstance(target, Direction):
            _check_direction(target, len(unembedding.mean))
            ids.append(unembedding.vocabulary + number)
            texts.append(target.label)
            weights.append(target.weight)
            vectors.append(target.vector.to(known))
        else:
            ids.append(target)
            texts.append(labels(target))
            weights.append(float(probabilities[target]))
            vectors.append(known[tokens.index(target)])
    heaviest = torch.tensor(weights, dtype=torch.float32, device=probabilities.device)
    return _targets(ids, texts, heaviest, torch.stack(vectors), place)


def _targets(ids: Sequence[int], texts: Sequence[str], weights: Tensor, directions: Tensor, place: Place) -> Targets:
    order = torch.sort(weights, descending=True, stable=True).indices
    places: list[int] = order.tolist()
    nodes = LogitNodes(tuple(ids[i] for i in places), tuple(texts[i] for i in places), weights[order])
    layer = torch.full((len(ids),), place.n_layers, dtype=torch.int64, device=directions.device)
    position = torch.full_like(layer, place.position)
    return Targets(nodes, TargetRows(layer, position, directions[order.to(directions.device)]))


def _probabilities(logits: Tensor) -> Tensor:
    probabilities = logits.detach().float().softmax(-1)
    if bool(probabilities.isnan().any()):
        raise RayscopeError("the model's logits are not numbers", "load the model in a wider dtype")
    return probabilities


def _check_tokens(tokens: Sequence[int], vocabulary: int) -> None:
    unknown = [token for token in tokens if not 0 <= token < vocabulary]
    if unknown:
        raise InvalidRequest(f"There is no token {unknown[0]}: the model has {vocabulary}, numbered from 0")
    if len(set(tokens)) < len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise InvalidRequest(f"Token {twice} is a target twice", "Name every token once.")


def _check_direction(target: Direction, width: int) -> None:
    if target.vector.shape != (width,):
        raise InvalidRequest(
            f"The direction {target.label!r} has {tuple(target.vector.shape)} numbers; the model's residual has {width}"
        )
    if not bool(target.vector.isfinite().all()) or not bool(target.vector.any()):
        raise InvalidRequest(f"The direction {target.label!r} is zero or not finite")
    if not (math.isfinite(target.weight) and target.weight > 0):
        raise InvalidRequest(f"The direction {target.label!r} weighs {target.weight}; a weight lies above 0")
