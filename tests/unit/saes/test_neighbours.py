"""Cosines between decoder rows equal those computed in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InvalidRequest
from core.saes.encoder import LoadedSae
from core.saes.neighbours import MAX_NEIGHBOURS, decoder_row, nearest_by_decoder
from tests.tiny_models import D_MODEL, random_sae

from .kinds import HOOK, KINDS, raw_sae

WIDE = 200


def sae(kind: str = "standard", d_sae: int = WIDE) -> LoadedSae:
    return LoadedSae("1-kind", HOOK, raw_sae(kind, d_sae).requires_grad_(False))


def cosines(decoder: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    decoder, query = decoder.double(), query.double()
    return decoder @ query / (decoder.norm(dim=-1) * query.norm())


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk", "transcoder to a wider layer", "matching_pursuit"])
@settings(max_examples=10, deadline=None)
@given(k=st.integers(-3, 300), seed=st.integers(0, 10**6))
def test_the_nearest_rows_are_those_of_float64(kind: str, k: int, seed: int) -> None:
    loaded = sae(kind)
    width = loaded.sae.W_dec.shape[1]
    query = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    indexes, values = nearest_by_decoder(loaded, query, k)
    expected = cosines(loaded.sae.W_dec, query).sort(descending=True)
    count = max(1, min(k, MAX_NEIGHBOURS))
    torch.testing.assert_close(torch.tensor(values).double(), expected.values[:count], rtol=0, atol=1e-5)
    torch.testing.assert_close(cosines(loaded.sae.W_dec, query)[indexes], expected.values[:count], rtol=0, atol=1e-5)
    assert len(set(indexes)) == count


@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_is_its_own_nearest_neighbour(kind: str) -> None:
    loaded = sae(kind, 96)
    for index in (0, 50, 95):
        indexes, values = nearest_by_decoder(loaded, decoder_row(loaded, index), 3)
        assert indexes[0] == index
        assert values[0] == pytest.approx(1.0, abs=1e-6)
        assert max(values) <= 1.0


def test_the_length_of_the_query_does_not_matter() -> None:
    loaded, query = sae(), torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1))
    assert nearest_by_decoder(loaded, query, 9)[0] == nearest_by_decoder(loaded, 1000 * query, 9)[0]


def test_at_least_one_and_at_most_128_and_no_more_than_there_are() -> None:
    query = torch.ones(D_MODEL)
    assert [len(nearest_by_decoder(sae(), query, k)[0]) for k in (0, 1, 128, 129)] == [1, 1, 128, 128]
    assert len(nearest_by_decoder(sae(d_sae=24), query, 100)[0]) == 24


def test_a_row_that_is_not_a_number_ranks_last_and_counts_as_zero() -> None:
    loaded = sae(d_sae=16)
    loaded.sae.W_dec[3] = torch.nan
    indexes, values = nearest_by_decoder(loaded, -torch.ones(D_MODEL), 16)
    assert indexes[-1] == 3
    assert values[-1] == 0.0
    assert values[-2] < 0


def test_zero_rows_and_zero_queries_have_cosine_zero() -> None:
    loaded = sae(d_sae=16)
    loaded.sae.W_dec[3] = 0.0
    assert dict(zip(*nearest_by_decoder(loaded, torch.ones(D_MODEL), 16), strict=True))[3] == 0.0
    assert set(nearest_by_decoder(loaded, torch.zeros(D_MODEL), 16)[1]) == {0.0}


def test_norms_keep_their_precision_in_half_precision_weights() -> None:
    half = random_sae("standard", D_MODEL, WIDE, HOOK, 3).to(torch.bfloat16).requires_grad_(False)
    loaded = LoadedSae("1-kind", HOOK, half)
    indexes, values = nearest_by_decoder(loaded, decoder_row(loaded, 4), 5)
    expected = cosines(half.W_dec, half.W_dec[4])
    assert indexes[0] == 4
    torch.testing.assert_close(torch.tensor(values).double(), expected[indexes], rtol=0, atol=4e-3)


@pytest.mark.parametrize("n", [0, 1, D_MODEL - 1, D_MODEL + 1])
def test_a_query_of_another_width_is_refused(n: int) -> None:
    with pytest.raises(InvalidRequest, match=f"The vector has {n} numbers but the decoder of 1-kind has width 32"):
        nearest_by_decoder(sae(), torch.ones(n), 3)


@pytest.mark.parametrize("index", [-1, WIDE])
def test_a_row_that_is_not_there_is_refused(index: int) -> None:
    with pytest.raises(InvalidRequest, match=f"Feature index {index} is out of range"):
        decoder_row(sae(), index)
