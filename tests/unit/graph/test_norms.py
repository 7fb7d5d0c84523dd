"""Norms are recognised by what they compute, and frozen without a change to what they return."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.graph.norms import NormForm, freeze_norm, norms

WIDTH = 24


def llama() -> nn.Module:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    return LlamaRMSNorm(WIDTH)


def gemma() -> nn.Module:
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

    return Gemma2RMSNorm(WIDTH)


def t5() -> nn.Module:
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    return T5LayerNorm(WIDTH)


def cohere() -> nn.Module:
    from transformers.models.cohere.modeling_cohere import CohereLayerNorm

    return CohereLayerNorm(WIDTH)


def nemotron() -> nn.Module:
    from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P

    return NemotronLayerNorm1P(WIDTH)


def olmo() -> nn.Module:
    from transformers.models.olmo.modeling_olmo import OlmoLayerNorm

    return OlmoLayerNorm(WIDTH)


CENTRED = {llama: False, gemma: False, t5: False, cohere: True, nemotron: True, olmo: True}
KINDS = {**CENTRED, lambda: nn.LayerNorm(WIDTH): True, lambda: nn.RMSNorm(WIDTH, eps=1e-6): False}

each = pytest.mark.parametrize(("build", "centred"), KINDS.items())
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])


def norm(build: Any, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    module = build()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=1.5)
        parameter.data[0] = 90.0  # published norms have such channels, where a weight and one plus it look alike
    return module.to(dtype)


def inputs(dtype: torch.dtype, seed: int = 1) -> Tensor:
    x = torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(seed)) * 3
    x[..., 0] *= 50
    return (x - x.mean(-1, keepdim=True)).to(dtype)  # what a centred residual stream looks like


@each
@dtypes
def test_the_formula_gives_what_the_module_gives(build: Any, centred: bool, dtype: torch.dtype) -> None:
    module, x = norm(build, dtype), inputs(dtype)
    form = NormForm.of(module, x)
    assert form is not None
    assert form.centred == centred
    other = inputs(dtype, seed=2) + 1
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype is not torch.bfloat16 else {"rtol": 3e-2, "atol": 3e-2}
    with torch.no_grad():
        torch.testing.assert_close(form(other.double()), module(other).double(), **near)


@each
def test_the_gradient_is_that_of_the_map_with_its_scale_held(build: Any, centred: bool) -> None:
    module, x = norm(build, torch.float64).requires_grad_(False), inputs(torch.float64).requires_grad_()
    module.register_forward_hook(freeze_norm)
    up = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (slope,) = torch.autograd.grad(module(x), x, up)
    kept = x.detach() - (x.detach().mean(-1, keepdim=True) if centred else 0)
    scale = (kept.pow(2).mean(-1, keepdim=True) + _eps(module)).sqrt()
    weight: Any = getattr(module, "weight", None)
    gain = 1.0 if weight is None else weight + (1.0 if build in (gemma, nemotron) else 0.0)
    truth = up * gain / scale
    truth = truth - (truth.mean(-1, keepdim=True) if centred else 0)
    torch.testing.assert_close(slope, truth, rtol=1e-7, atol=1e-8)


@each
@dtypes
def test_what_a_frozen_norm_returns_is_the_modules_own(build: Any, centred: bool, dtype: torch.dtype) -> None:
    module, x = norm(build, dtype), inputs(dtype)
    plain = module(x)
    module.register_forward_hook(freeze_norm)
    torch.testing.assert_close(module(x), plain, rtol=0, atol=0)


def test_another_formula_is_left_alone() -> None:
    class CubicNorm(nn.LayerNorm):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) ** 3

    module, x = norm(lambda: CubicNorm(WIDTH), torch.float64), inputs(torch.float64)
    assert NormForm.of(module, x) is None
    assert freeze_norm(module, (x,), module(x)) is None


def test_a_norm_with_a_gate_is_left_alone() -> None:
    module, x = norm(llama, torch.float64), inputs(torch.float64)
    assert freeze_norm(module, (x, x), module(x)) is None


def test_norms_are_found_by_their_class() -> None:
    assert [type(module).__name__ for module in norms(nn.Sequential(llama(), nn.Linear(2, 2), nn.LayerNorm(3)))] == [
        "LlamaRMSNorm",
        "LayerNorm",
    ]


def _eps(module: Any) -> float:
    return next((getattr(module, name) for name in ("variance_epsilon", "eps") if hasattr(module, name)), 1e-5)
