"""A traced prompt holds what the unmodified model did, and the model is as it was."""

import pickle
from typing import Any

import pytest
import torch

from core.engine.model import EagerModel
from core.errors import InvalidRequest
from core.graph.tracing import trace
from tests.unit.engine.families import D_MODEL, N_LAYERS, VOCAB_SIZE, eager_model, hf_model, watch

from .replacement import Replacement
from .sets import SETS, random_set
from .test_replay import FAMILIES, IDS

NEAR = {"rtol": 1e-4, "atol": 1e-5}
every_family = pytest.mark.parametrize("family", FAMILIES)
every_set = pytest.mark.parametrize("kind", SETS)


@every_family
@every_set
@pytest.mark.parametrize("zeroed", [0, 1, 4])
def test_features_and_errors_are_those_of_the_definition(family: str, kind: str, zeroed: int) -> None:
    transcoders = random_set(kind)
    prompt, truth = trace(eager_model(family), transcoders, IDS, zeroed=zeroed), Replacement(
        family, transcoders, IDS, zeroed
    )  # fmt: skip
    assert prompt.features.layer.tolist() == truth.layer.tolist()
    assert prompt.features.position.tolist() == truth.position.tolist()
    assert prompt.features.index.tolist() == truth.index.tolist()
    torch.testing.assert_close(prompt.features.activation, truth.activation.float(), **NEAR)
    for layer in range(N_LAYERS):
        errors = truth.contribution(layer, truth.errors[layer], constants=False)
        torch.testing.assert_close(prompt.errors[layer], errors.detach().float(), rtol=1e-3, atol=1e-4)


@every_family
@every_set
def test_features_write_what_arrives_in_the_residual_stream(family: str, kind: str) -> None:
    transcoders = random_set(kind)
    prompt, truth = trace(eager_model(family), transcoders, IDS), Replacement(family, transcoders, IDS)
    for layer in range(N_LAYERS):
        first, last = prompt.writers(layer)
        numbers = [
            i
            for i in range(len(truth.layer))
            if truth.layer[i] == layer or (transcoders.cross_layer and truth.layer[i] < layer)
        ]
        assert list(range(first, last)) == numbers
        for i, row in zip(numbers, prompt.decoders[layer], strict=True):
            written = torch.zeros(len(IDS), D_MODEL, dtype=torch.float64)
            written[truth.position[i]] = truth.row(i, layer - int(truth.layer[i]))
            arrived = truth.contribution(layer, written, constants=False)[truth.position[i]]
            torch.testing.assert_close(row, arrived.detach().float(), **NEAR)


@every_family
def test_patterns_tokens_and_logits_are_the_models(family: str) -> None:
    prompt, watched = trace(eager_model(family), random_set("plt"), IDS), watch(family, IDS)
    torch.testing.assert_close(prompt.tokens, watched.hidden_states[0], **NEAR)
    with torch.no_grad():
        torch.testing.assert_close(prompt.logits, hf_model(family)(torch.tensor([IDS])).logits[0, -1], **NEAR)
    for layer, mixing in enumerate(prompt.mixing):
        pattern = watched.attentions[layer]
        # One number per query and one per key, the same in all heads, is all that mixing adds to the pattern.
        assert torch.equal(mixing == 0, pattern == 0)
        ratio = torch.where(pattern == 0, torch.nan, mixing / pattern)
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3"])
def test_sliding_windows_come_with_the_patterns(family: str) -> None:
    ids = tuple(range(1, 12))
    mixing = trace(eager_model(family), random_set("plt"), ids).mixing
    assert not mixing[0, :, 10, :5].any()


@every_family
def test_tracing_leaves_the_model_as_it_was(family: str) -> None:
    model = eager_model(family)
    before = model.module.config.get_text_config()._attn_implementation
    hooks = _hooks(model)
    trace(model, random_set("plt"), IDS)
    with pytest.raises(InvalidRequest):
        trace(model, random_set("plt"), (VOCAB_SIZE + 1,))
    assert model.module.config.get_text_config()._attn_implementation == before
    assert _hooks(model) == hooks


def _hooks(model: EagerModel) -> list[list[int]]:
    """Which hooks every module has; transformers leaves some of its own behind."""
    return [[*module._forward_hooks, *module._forward_pre_hooks] for module in model.module.modules()]


def test_encoder_rows_are_fetched_for_the_chosen_features_only_and_once() -> None:
    transcoders = random_set("clt")
    prompt = trace(eager_model("llama"), transcoders, IDS)
    assert transcoders.calls["encoder_rows"] == 0
    chosen = torch.arange(0, len(prompt.features), 2)
    kept = prompt.keep(chosen).with_encoders(transcoders)
    assert kept.encoders is not None
    for node, row in enumerate(kept.encoders):
        layer, index = int(kept.features.layer[node]), int(kept.features.index[node])
        assert torch.equal(row, transcoders.W_enc[layer][index])
    pairs = set(zip(kept.features.layer.tolist(), kept.features.index.tolist(), strict=True))
    assert transcoders.calls["encoder_rows"] == len(pairs) < len(kept.features)
    with pytest.raises(ValueError, match="other"):
        kept.with_encoders(random_set("clt", name="other"))


def test_a_prompt_costs_what_its_tensors_hold() -> None:
    prompt = trace(eager_model("gemma2"), random_set("clt"), IDS)
    n_positions, n_features = len(IDS), len(prompt.features)
    writes = sum(N_LAYERS - layer for layer in prompt.features.layer.tolist())
    numbers = N_LAYERS * (4 * n_positions**2 + n_positions * D_MODEL) + n_positions * D_MODEL + writes * D_MODEL
    small = 4 * ((N_LAYERS + 1) * n_positions + VOCAB_SIZE) + (3 * 8 + 4) * n_features
    assert prompt.nbytes == 4 * numbers + small
    assert len(pickle.dumps(prompt)) < prompt.nbytes + 20_000


def test_half_precision_is_kept_where_it_was_asked_for() -> None:
    prompt = trace(eager_model("llama"), random_set("plt_skip"), IDS, dtype=torch.bfloat16)
    halves = [prompt.mixing, prompt.tokens, prompt.errors, *prompt.decoders]
    assert {tensor.dtype for tensor in halves} == {torch.bfloat16}
    moved: Any = prompt.to("cpu", torch.float32)
    wide = [moved.mixing, moved.tokens, moved.errors, *moved.decoders, moved.read_scales, moved.skip_scales]
    assert {tensor.dtype for tensor in wide} == {torch.float32}
    assert moved.features.layer.dtype == torch.int64


def test_transcoders_of_another_model_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=f"for 2 layers of width {D_MODEL}; this model has {N_LAYERS}"):
        trace(eager_model("llama"), random_set("plt", n_layers=2), IDS)


def test_other_families_are_sent_to_the_autograd_engine() -> None:
    with pytest.raises(InvalidRequest, match="does not know the model family 'gpt_neox'") as refused:
        trace(EagerModel(hf_model("neox")), random_set("plt"), IDS)
    assert "autograd engine" in str(refused.value.hint)
