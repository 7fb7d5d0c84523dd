"""Choosing the next token of every row of a batch, each row by its own rules and its own random numbers.

A row's choice depends on its logits, its rules and its seed only: neither on the rows beside it nor on any global
random state. Frequency and presence penalties are OpenAI's: they count generated tokens, not the prompt's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from core.generation.requests import Sampling, TokenScore


@dataclass(frozen=True, slots=True)
class Choice:
    """The token chosen for one row, and its scores if they were asked for."""

    token: int
    score: TokenScore | None = None


class Chooser:
    """One row's rules and what they remember."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._counts: dict[int, int] = {}

    @property
    def penalised(self) -> bool:
        """Whether tokens generated so far count against themselves."""
        rules = self.sampling
        return bool(self._counts) and (rules.frequency_penalty != 0 or rules.presence_penalty != 0)

    def penalties(self) -> tuple[list[int], list[float]]:
        """Tokens generated so far and what is taken off their logits."""
        rules = self.sampling
        return list(self._counts), [
            rules.frequency_penalty * count + rules.presence_penalty for count in self._counts.values()
        ]

    def draw(self) -> float:
        """The next random number in [0, 1)."""
        return float(self._random.random())

    def remember(self, token: int) -> None:
        """Counts a chosen token."""
        self._counts[token] = self._counts.get(token, 0) + 1


def choose(logits: torch.Tensor, choosers: Sequence[Chooser]) -> list[Choice]:
    """Chooses one token per row of `logits`, `[rows, vocab]`, and remembers it."""
    raw = logits.float()
    biased = _penalise(raw, choosers)
    tokens = biased.argmax(-1)
    drawn = [row for row, chooser in enumerate(choosers) if chooser.sampling.temperature > 0]
    if drawn:
        tokens[drawn] = _draw(biased[drawn], [choosers[row] for row in drawn])
    chosen: list[int] = tokens.tolist()
    for chooser, token in zip(choosers, chosen, strict=True):
        chooser.remember(token)
    scores = _score(raw, chosen, choosers)
    return [Choice(token, scores.get(row)) for row, token in enumerate(chosen)]


def _penalise(logits: torch.Tensor, choosers: Sequence[Chooser]) -> torch.Tensor:
    penalised = [row for row, chooser in enumerate(choosers) if chooser.penalised]
    if not penalised:
        return logits
    logits = logits.clone()
    for row in penalised:
        tokens, penalties = choosers[row].penalties()
        logits[row, tokens] -= torch.tensor(penalties, device=logits.device)
    return logits


def _draw(logits: torch.Tensor, choosers: Sequence[Chooser]) -> torch.Tensor:
    """One draw per row of `[rows, vocab]`, by the inverse of the cumulative distribution, in float64."""
    device = torch.device("cpu") if logits.device.type == "mps" else logits.device  # Apple's GPUs know no float64

    def numbers(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device)

    temperatures = numbers([chooser.sampling.temperature for chooser in choosers])
    # A temperature next to zero must not turn the largest logit into infinity.
    scaled = (logits - logits.amax(-1, keepdim=True)).to(device).double() / temperatures.unsqueeze(-1)
    probabilities = scaled.softmax(-1)
    top_p = [chooser.sampling.top_p for chooser in choosers]
    if min(top_p) < 1:
        probabilities = _nucleus(probabilities, numbers(top_p))
    cumulative = probabilities.cumsum(-1)
    draws = numbers([chooser.draw() for chooser in choosers])
    found = torch.searchsorted(cumulative, (draws * cumulative[:, -1]).unsqueeze(-1), right=True).squeeze(-1)
    return found.clamp(max=logits.shape[-1] - 1).to(logits.device)


def _nucleus(probabilities: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Keeps the likeliest tokens up to the one with which a row reaches its `top_p`; the likeliest always stays."""
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    dropped = torch.zeros_like(probabilities, dtype=torch.bool)
    dropped.scatter_(-1, order, before >= top_p.unsqueeze(-1))
    dropped.scatter_(-1, order[:, :1], False)
    return probabilities.masked_fill(dropped, 0.0)


def _score(logits: torch.Tensor, chosen: Sequence[int], choosers: Sequence[Chooser]) -> dict[int, TokenScore]:
    scored = [row for row, chooser in enumerate(choosers) if chooser.sampling.n_logprobs > 0]
    if not scored:
        return {}
    logprobs = logits[scored].log_softmax(-1)
    most = max(choosers[row].sampling.n_logprobs for row in scored)
    values, indexes = (part.tolist() for part in logprobs.topk(min(most, logprobs.shape[-1]), -1))
    of_chosen: list[float] = logprobs[range(len(scored)), [chosen[row] for row in scored]].tolist()
    return {
        row: TokenScore(
            of_chosen[at],
            tuple(zip(indexes[at], values[at], strict=True))[: choosers[row].sampling.n_logprobs],
        )
        for at, row in enumerate(scored)
    }
