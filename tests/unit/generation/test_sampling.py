"""How tokens are chosen."""

import math

import numpy as np
import pytest
import torch

from core.generation.requests import Sampling
from core.generation.sampling import Chooser, choose

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -30.0]])


def frequencies(sampling: Sampling, n: int = 6000) -> np.ndarray:
    chooser = Chooser(sampling)
    counts = np.zeros(LOGITS.shape[1])
    for _ in range(n):
        counts[choose(LOGITS, [chooser])[0].token] += 1
    return counts / n


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max())
    return e / e.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_the_softmax_says(temperature: float) -> None:
    expected = softmax(LOGITS[0].double().numpy() / temperature)
    assert np.abs(frequencies(Sampling(1, temperature, seed=3)) - expected).max() < 0.025


def test_top_p_keeps_the_likeliest_tokens_that_reach_it() -> None:
    p = softmax(LOGITS[0].double().numpy())
    found = frequencies(Sampling(1, 1.0, seed=5, top_p=float(p[0] + p[1] / 2)))
    assert np.abs(found - np.array([p[0], p[1], 0, 0, 0]) / (p[0] + p[1])).max() < 0.025
    assert frequencies(Sampling(1, 1.0, seed=5, top_p=1e-9), 200)[0] == 1.0


def test_temperature_next_to_zero_is_greedy_and_stays_finite() -> None:
    assert frequencies(Sampling(1, 1e-30, seed=1), 50)[0] == 1.0


def test_a_frequency_penalty_counts_and_a_presence_penalty_does_not() -> None:
    for frequency, presence, expected in ((0.6, 0.0, [0, 0, 1, 0, 1]), (0.0, 1.5, [0, 1, 0, 0, 0])):
        chooser = Chooser(Sampling(9, 0.0, frequency_penalty=frequency, presence_penalty=presence))
        assert [choose(LOGITS, [chooser])[0].token for _ in expected] == expected


def test_scores_are_of_the_model_alone_and_belong_to_their_row() -> None:
    choosers = [Chooser(Sampling(9, 2.0, seed=1, frequency_penalty=1.0, n_logprobs=n)) for n in (0, 2, 4)]
    rows = torch.stack([LOGITS[0], LOGITS[0].flip(0), LOGITS[0]])
    for _ in range(3):
        choices = choose(rows, choosers)
        assert choices[0].score is None
        for choice, logits, n in ((choices[1], rows[1], 2), (choices[2], rows[2], 4)):
            expected = logits.double().log_softmax(-1)
            assert choice.score is not None
            assert choice.score.logprob == pytest.approx(float(expected[choice.token]), abs=1e-6)
            order = expected.argsort(descending=True)[:n].tolist()
            assert [token for token, _ in choice.score.top] == order
            assert [p for _, p in choice.score.top] == pytest.approx(expected[order].tolist(), abs=1e-6)


def test_a_row_draws_its_own_numbers_whoever_is_beside_it() -> None:
    def tokens(n_others: int) -> list[int]:
        choosers = [Chooser(Sampling(9, 1.0, seed=s)) for s in range(n_others + 1)]
        return [choose(LOGITS.expand(n_others + 1, -1), choosers)[0].token for _ in range(40)]

    assert tokens(0) == tokens(3)


def test_an_impossible_token_is_never_drawn() -> None:
    logits = torch.tensor([[0.0, -math.inf, 0.0]])
    chooser = Chooser(Sampling(1, 1.0, seed=2))
    assert {choose(logits, [chooser])[0].token for _ in range(200)} == {0, 2}
