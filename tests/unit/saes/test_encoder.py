"""The cheap ways to encode give SAELens' own numbers."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import InvalidRequest
from core.saes.encoder import LoadedSae
from tests.tiny_models import D_SAE

from .kinds import ELEMENTWISE, HOOK, KINDS, SEQUENTIAL, activations, loaded, raw_sae, saelens_encode

every = pytest.mark.parametrize("kind", KINDS)
NEAR = {"rtol": 1e-5, "atol": 1e-5}
columns = st.lists(st.integers(0, D_SAE - 1), min_size=0, max_size=12)


def fresh(kind: str) -> LoadedSae:
    return LoadedSae("1-kind", HOOK, raw_sae(kind).requires_grad_(False))


@every
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chosen=columns)
def test_chosen_columns_equal_those_of_the_whole_encoding(kind: str, chosen: list[int]) -> None:
    sae = fresh(kind)
    expected = saelens_encode(sae.sae, activations())[:, chosen]
    torch.testing.assert_close(sae.encode_columns(activations(), chosen), expected, **NEAR)


@every
def test_encoding_columns_leaves_the_sae_as_it_was(kind: str, tmp_path: Path) -> None:
    sae = loaded(kind, tmp_path)
    before, parameters = sae.encode(activations()), dict(sae.sae.named_parameters())
    sae.encode_columns(activations(), [5, 3, 5])
    assert {name: id(value) for name, value in sae.sae.named_parameters()} == {
        name: id(value) for name, value in parameters.items()
    }
    torch.testing.assert_close(sae.encode(activations()), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_one_column_is_encoded_without_the_others(kind: str) -> None:
    sae = fresh(kind)
    sae.sae.W_enc[:, 8:] = torch.nan
    sae.sae.W_enc[:, :7] = torch.nan
    assert sae.encode_columns(activations(), [7]).isfinite().all()


@every
def test_elementwise_means_that_no_feature_depends_on_another(kind: str) -> None:
    sae, changed = fresh(kind), fresh(kind)
    with torch.no_grad():
        for name, parameter in changed.sae.named_parameters():
            if name == "W_dec":
                parameter[7:] = 5 * parameter[7:].flip(0)
            elif name == "W_enc":
                parameter[:, 7:] = 5 * parameter[:, 7:].flip(1)
    same = torch.allclose(sae.encode(activations())[:, :7], changed.encode(activations())[:, :7], atol=1e-6)
    assert same == sae.elementwise == (kind in ELEMENTWISE)


@every
def test_sequential_means_that_positions_depend_on_each_other(kind: str) -> None:
    sae, rows = fresh(kind), activations()
    alone = torch.cat([sae.encode(row.unsqueeze(0)) for row in rows])
    same = torch.allclose(sae.encode(rows), alone, atol=1e-5)
    assert same != sae.sequential
    assert sae.sequential == (kind in SEQUENTIAL)


@every
def test_a_prompt_is_encoded_as_saelens_encodes_it(kind: str) -> None:
    sae = fresh(kind)
    torch.testing.assert_close(sae.encode(activations()), saelens_encode(sae.sae, activations()), **NEAR)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(SEQUENTIAL)))
def test_prompts_may_be_stacked_unless_the_sae_is_sequential(kind: str) -> None:
    sae, first, second = fresh(kind), activations(5, seed=1), activations(3, seed=2)
    expected = torch.cat([saelens_encode(sae.sae, first), saelens_encode(sae.sae, second)])
    torch.testing.assert_close(sae.encode(torch.cat([first, second])), expected, **NEAR)


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_predictions_are_those_of_saelens(kind: str) -> None:
    sae = fresh(kind)
    with torch.no_grad():
        _, expected = sae.sae.encode_with_predictions(activations().unsqueeze(0))
    assert expected.abs().max() > 0
    torch.testing.assert_close(sae.predict(activations()), expected[0], **NEAR)


@pytest.mark.parametrize("kind", ["standard", "topk", "transcoder"])
def test_predictions_of_any_other_sae_are_refused(kind: str) -> None:
    with pytest.raises(InvalidRequest, match="SAE architecture is not temporal"):
        fresh(kind).predict(activations())


@every
def test_the_encoder_vector_is_the_column_that_the_feature_reads_with(kind: str) -> None:
    sae = fresh(kind)
    parameters = dict(sae.sae.named_parameters())
    expected = parameters["W_enc"][:, 11] if "W_enc" in parameters else parameters["W_dec"][11]
    torch.testing.assert_close(sae.encoder_vector(11), expected, rtol=0, atol=0)


@every
def test_decoder_norms_are_euclidean_and_in_float32(kind: str, tmp_path: Path) -> None:
    sae = loaded(kind, tmp_path, "bfloat16")
    norms = sae.decoder_norms()
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms, sae.sae.W_dec.double().norm(dim=-1).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("index", [-1, D_SAE, 10**12])
def test_a_feature_that_does_not_exist_is_refused_with_the_range(index: int) -> None:
    sae = fresh("standard")
    expected = f"Feature index {index} is out of range for 1-kind, which has {D_SAE} features"
    for refused in (sae.check_index, sae.encoder_vector):
        with pytest.raises(InvalidRequest, match=expected) as refusal:
            refused(index)
        assert refusal.value.hint == f"Use an index from 0 to {D_SAE - 1}."


def test_activations_in_another_precision_are_accepted() -> None:
    sae = fresh("standard")
    found = sae.encode(activations().bfloat16())
    torch.testing.assert_close(found, saelens_encode(sae.sae, activations().bfloat16().float()), **NEAR)
