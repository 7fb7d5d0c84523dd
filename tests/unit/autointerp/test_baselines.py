"""Baselines forget what was learned and keep the rest."""

import random

import pytest
import torch

from core.autointerp.baselines import Directions, random_directions, random_explanation
from core.autointerp.examples import FeatureName

NAMES = [FeatureName("m", "0-s", index) for index in range(6)]
WORDS = {name: f"explanation {name.index}" for name in NAMES}


def test_a_random_explanation_is_anothers_and_the_same_for_the_same_seed() -> None:
    before = random.getstate()
    drawn = {random_explanation(WORDS, NAMES[0], seed) for seed in range(60)}
    assert drawn == {(name, WORDS[name]) for name in NAMES[1:]}
    backwards = dict(reversed(WORDS.items()))
    assert random_explanation(backwards, NAMES[2], 5) == random_explanation(WORDS, NAMES[2], 5)
    assert random.getstate() == before


def test_another_features_same_words_are_no_baseline() -> None:
    words = {NAMES[0]: "Cats", NAMES[1]: " cats ", NAMES[2]: "", NAMES[3]: "Dogs"}
    assert {random_explanation(words, NAMES[0], seed) for seed in range(20)} == {(NAMES[3], "Dogs")}
    assert random_explanation({NAMES[0]: "Cats", NAMES[1]: "cats"}, NAMES[0], 1) is None


def test_random_directions_keep_every_length_and_no_direction() -> None:
    stream = torch.Generator().manual_seed(0)
    like = Directions(torch.randn(64, 300, generator=stream), 3 * torch.randn(300, 64, generator=stream))
    drawn = random_directions(like, seed=1)
    torch.testing.assert_close(drawn.encoder.norm(dim=0), like.encoder.norm(dim=0))
    torch.testing.assert_close(drawn.decoder.norm(dim=1), like.decoder.norm(dim=1))
    aligned = torch.cosine_similarity(drawn.encoder.T, drawn.decoder, dim=1)
    torch.testing.assert_close(aligned, torch.ones(300))
    kept = torch.cosine_similarity(drawn.decoder, like.decoder, dim=1)
    assert kept.mean().abs() < 4 / (64 * 300) ** 0.5  # chance: mean 0, deviation 1 / sqrt(d * features)


def test_random_directions_follow_their_seed_and_leave_torchs_alone() -> None:
    like = Directions(torch.ones(4, 3, dtype=torch.float16), torch.ones(3, 4, dtype=torch.bfloat16))
    before = torch.random.get_rng_state()
    first = random_directions(like, seed=1)
    assert torch.equal(random_directions(like, seed=1).decoder, first.decoder)
    assert not torch.equal(random_directions(like, seed=2).decoder, first.decoder)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (first.encoder.dtype, first.decoder.dtype) == (torch.float16, torch.bfloat16)


def test_matrices_of_two_saes_are_refused() -> None:
    with pytest.raises(ValueError, match="not of one SAE"):
        random_directions(Directions(torch.ones(4, 3), torch.ones(5, 4)), seed=1)
