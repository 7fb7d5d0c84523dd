"""Direct feature attribution equals its definition, written out as loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.engine.attention import AttentionReading
from core.errors import InvalidRequest
from core.saes.attribution import direct_feature_attribution
from core.saes.encoder import LoadedSae
from tests.tiny_models import D_MODEL, D_SAE, random_sae

from .kinds import HOOK, KINDS, raw_sae

HEADS, HEAD_DIM = 4, D_MODEL // 4


def sae(kind: str = "standard") -> LoadedSae:
    return LoadedSae("1-att-kk", HOOK, raw_sae(kind).requires_grad_(False))


def reading(seed: int, batch: int, kv_heads: int, positions: int) -> AttentionReading:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(batch, HEADS, positions, positions, generator=generator)
    future = torch.ones(positions, positions, dtype=torch.bool).triu(1)
    values = torch.randn(batch, kv_heads, positions, HEAD_DIM, generator=generator)
    return AttentionReading(scores.masked_fill(future, -torch.inf).softmax(-1), values)


def naive(attention: AttentionReading, row: int, encoder: torch.Tensor, destination: int, length: int) -> list[float]:
    kv_heads = attention.values.shape[1]
    result = []
    for source in range(length):
        total = 0.0
        for head in range(HEADS):
            group = head // (HEADS // kv_heads)
            value = attention.values[row, group, source].double()
            weight = encoder[head * HEAD_DIM : (head + 1) * HEAD_DIM].double()
            total += float(attention.pattern[row, head, destination, source]) * float(value @ weight)
        result.append(total)
    return result


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kv_heads=st.sampled_from([1, 2, 4]),
    length=st.integers(1, 6),
    padding=st.integers(0, 3),
    index=st.integers(0, D_SAE - 1),
    data=st.data(),
)
def test_attribution_equals_attention_times_values(
    seed: int, kv_heads: int, length: int, padding: int, index: int, data: st.DataObject
) -> None:
    loaded = sae()
    attention = reading(seed, 3, kv_heads, length + padding)
    row, destination = data.draw(st.integers(0, 2)), data.draw(st.integers(0, length - 1))
    found = direct_feature_attribution(loaded, index, attention, row, length, destination)
    expected = naive(attention, row, loaded.sae.W_enc[:, index], destination, length)
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_attributions_add_up_to_what_the_feature_reads(kind: str) -> None:
    loaded, attention = sae(kind), reading(5, 1, 2, 7)
    values = attention.values[0].repeat_interleave(2, 0)
    heads = torch.einsum("hqk,hkd->qhd", attention.pattern[0], values).flatten(1)
    found = direct_feature_attribution(loaded, 9, attention, 0, 7, 6)
    torch.testing.assert_close(found.sum(), heads[6] @ loaded.encoder_vector(9), rtol=1e-4, atol=1e-4)


def test_positions_after_the_destination_contribute_nothing() -> None:
    found = direct_feature_attribution(sae(), 9, reading(5, 1, 4, 7), 0, 7, 3)
    assert found[:4].abs().min() > 0
    assert not found[4:].any()


def test_half_precision_is_widened_before_anything_is_multiplied() -> None:
    attention = reading(5, 1, 2, 7)
    half = AttentionReading(attention.pattern.bfloat16(), attention.values.bfloat16())
    raw = random_sae("standard", D_MODEL, D_SAE, HOOK, 3).to(torch.bfloat16).requires_grad_(False)
    found = direct_feature_attribution(LoadedSae("1-att-kk", HOOK, raw), 9, half, 0, 7, 6)
    assert found.dtype == torch.float32
    expected = torch.tensor(naive(half, 0, raw.W_enc[:, 9], 6, 7))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_sae_that_does_not_read_concatenated_heads_is_refused() -> None:
    wide = AttentionReading(torch.ones(1, HEADS, 2, 2), torch.ones(1, HEADS, 2, 2 * HEAD_DIM))
    with pytest.raises(
        InvalidRequest, match=r"DFA expects a hook_z encoder with d_in = n_heads \* head_dim \(4 \* 16\)"
    ):
        direct_feature_attribution(sae(), 0, wide, 0, 2, 1)
