"""What the autograd engine promises besides true edges: it refuses what it can not do and leaves the model alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from core.engine.model import EagerModel
from core.errors import InvalidRequest
from core.graph.autograd import Autograd
from core.graph.linearised import TargetRows
from core.graph.transcoders.transcoder import ReadSite, WriteSite
from tests.unit.engine.families import opt_model

from .architectures import ARCHITECTURES, D_MODEL, N_LAYERS, VOCAB_SIZE, eager_model
from .plain_sets import PlainSet, random_set

IDS = (7, 3, 22, 60, 1, 44, 9)
T = len(IDS)

every = pytest.mark.parametrize("name", ARCHITECTURES)


def transcoders(kind: str = "relu", reads: ReadSite = "mlp_in", writes: WriteSite = "mlp_out") -> PlainSet:
    return random_set(kind, n_layers=N_LAYERS, d_model=D_MODEL, reads=reads, writes=writes)


def traced(name: str, kind: str = "relu", ids: tuple[int, ...] = IDS, zeroed: int = 1) -> Autograd:
    return Autograd.trace(eager_model(name), transcoders(kind), ids, zeroed=zeroed)


def everything(linear: Autograd) -> Tensor:
    return linear.rows(linear.targets(torch.arange(len(linear.features))))


def hooks(model: nn.Module) -> list[list[int]]:
    return [[*module._forward_hooks, *module._forward_pre_hooks] for module in model.modules()]


@contextmanager
def passing(name: str, path: str, through: Callable[[Tensor], Tensor]) -> Iterator[EagerModel]:
    """A model in which what one module returns goes through something else."""
    model = eager_model(name)

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        return (through(output[0]), *output[1:]) if isinstance(output, tuple) else through(output)

    handle = model.module.get_submodule(path).register_forward_hook(hook)
    try:
        yield model
    finally:
        handle.remove()


class OneByOne(torch.autograd.Function):
    """Linear, but its gradient looks at numbers, which a batch of gradients has not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1.0

    taken: ClassVar[list[int]] = []

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        OneByOne.taken.append(int(slopes[0].isnan().any().item()))
        return slopes[0]


@pytest.mark.parametrize(
    "through",
    [
        pytest.param(lambda x: x + 1e-3 * x**2, id="curved"),
        pytest.param(torch.relu, id="piecewise linear"),
        pytest.param(lambda x: x / x.pow(2).mean(-1, keepdim=True).sqrt(), id="a norm that is no module"),
    ],
)
@pytest.mark.parametrize(
    ("name", "path"),
    [("llama", "model.layers.1.self_attn.o_proj"), ("gpt2", "transformer.h.0"), ("neox", "gpt_neox.layers.1")],
)
def test_a_model_that_does_not_become_linear_is_refused(
    name: str, path: str, through: Callable[[Tensor], Tensor]
) -> None:
    with passing(name, path, through) as model, pytest.raises(InvalidRequest, match="is not linear where"):
        Autograd.trace(model, transcoders(), IDS)


def test_operations_that_take_no_batch_of_gradients_are_taken_one_by_one() -> None:
    plain = traced("llama", "clt")
    chosen = torch.arange(len(plain.features))[plain.features.layer == 2][:5]
    truth = plain.rows(plain.targets(chosen))
    with passing("llama", "model.layers.1.self_attn.o_proj", OneByOne.apply) as model:  # pyright: ignore[reportArgumentType]
        linear = Autograd.trace(model, transcoders("clt"), IDS)
    OneByOne.taken.clear()
    found = linear.rows(linear.targets(chosen))
    assert len(OneByOne.taken) == len(chosen)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9)


def test_attention_that_can_not_be_replaced_is_refused() -> None:
    from tests.unit.engine.test_attention import hybrid_model

    sets = random_set("relu", n_layers=2, d_model=32, dtype=torch.float32)
    with pytest.raises(InvalidRequest, match="linear-attention layer"):
        Autograd.trace(hybrid_model(), sets, IDS)


@pytest.mark.parametrize(
    ("name", "reads", "writes"),
    [
        ("neox", "resid_mid", "mlp_out"),
        ("granite", "mlp_in", "mlp_contribution"),
        ("olmo2", "mlp_normalized", "mlp_out"),
    ],
)
def test_a_place_that_the_model_does_not_have_is_refused(name: str, reads: ReadSite, writes: WriteSite) -> None:
    with pytest.raises(InvalidRequest):
        Autograd.trace(eager_model(name), transcoders("relu", reads, writes), IDS)


@pytest.mark.parametrize(
    ("reads", "writes", "reason"),
    [
        ("mlp_in", "mlp_out", "no hook point 'blocks.0.mlp.hook_in'"),
        ("resid_mid", "mlp_out", "no hook point 'blocks.0.mlp.hook_out'"),
        ("resid_mid", "mlp_contribution", "all positions of all prompts in one axis"),
    ],
)
def test_a_model_whose_mlps_are_no_modules_is_refused(reads: ReadSite, writes: WriteSite, reason: str) -> None:
    sets = random_set("relu", n_layers=N_LAYERS, d_model=D_MODEL, reads=reads, writes=writes, dtype=torch.float32)
    with pytest.raises(InvalidRequest, match=reason):
        Autograd.trace(EagerModel(opt_model()), sets, IDS)


@pytest.mark.parametrize("change", [{"n_layers": N_LAYERS + 1}, {"d_model": D_MODEL * 2}])
def test_transcoders_of_another_model_are_refused(change: dict[str, int]) -> None:
    sets = random_set("relu", **{"n_layers": N_LAYERS, "d_model": D_MODEL} | change)
    with pytest.raises(InvalidRequest, match="this model has"):
        Autograd.trace(eager_model("llama"), sets, IDS)


def test_a_token_without_an_embedding_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no embedding"):
        traced("llama", ids=(3, VOCAB_SIZE))


@every
def test_a_trace_leaves_the_model_as_it_was(name: str) -> None:
    model = eager_model(name).module
    usual = model.config.get_text_config()._attn_implementation
    hooked = hooks(model)
    before = model(input_ids=torch.tensor([IDS]), use_cache=False).logits
    traced(name)
    assert model.config.get_text_config()._attn_implementation == usual
    assert hooks(model) == hooked
    torch.testing.assert_close(model(input_ids=torch.tensor([IDS]), use_cache=False).logits, before, rtol=0, atol=0)


def test_a_refused_trace_leaves_the_model_as_it_was() -> None:
    model = eager_model("olmo2").module
    hooked = hooks(model)
    with pytest.raises(InvalidRequest, match="before it forms"):
        Autograd.trace(eager_model("olmo2"), transcoders("relu", "mlp_normalized"), IDS)
    assert model.config._attn_implementation == "eager"
    assert hooks(model) == hooked


@every
def test_predictions_are_the_models_own(name: str) -> None:
    truth = eager_model(name).module(input_ids=torch.tensor([IDS]), use_cache=False).logits[0, -1]
    found = traced(name).logits
    assert not found.requires_grad
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["relu", "clt"])
def test_a_row_does_not_depend_on_the_rows_beside_it(kind: str) -> None:
    linear = traced("qwen3", kind)
    together = everything(linear)
    order = torch.randperm(len(together), generator=torch.Generator().manual_seed(0))
    for chosen in order.split(7):
        torch.testing.assert_close(linear.rows(linear.targets(chosen)), together[chosen], rtol=1e-9, atol=1e-12)


def test_no_rows_are_no_rows() -> None:
    linear = traced("llama")
    rows = linear.rows(linear.targets(torch.arange(0)))
    assert rows.shape == (0, len(linear.features) + (N_LAYERS + 1) * T)


@pytest.mark.parametrize("kind", ["relu", "clt"])
def test_keeping_features_keeps_their_columns_and_all_others(kind: str) -> None:
    linear = traced("gpt2", kind)
    n = len(linear.features)
    chosen = torch.arange(2, n, 5)
    kept = linear.keep(chosen)
    columns = torch.cat([chosen, torch.arange(n, n + (N_LAYERS + 1) * T)])
    assert torch.equal(kept.features.index, linear.features.index[chosen])
    torch.testing.assert_close(everything(kept), everything(linear)[chosen][:, columns], rtol=1e-9, atol=1e-12)
    again = kept.keep(torch.tensor([1, 3]))
    torch.testing.assert_close(again.features.activation, linear.features.activation[chosen[[1, 3]]])


def test_keeping_nothing_leaves_errors_and_tokens() -> None:
    kept = traced("llama").keep(torch.arange(0))
    directions = torch.randn(2, D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = kept.rows(TargetRows(torch.full((2,), N_LAYERS), torch.full((2,), T - 1), directions))
    assert rows.shape == (2, (N_LAYERS + 1) * T)
    assert rows[:, -T:].abs().min() > 0


def test_nothing_above_or_right_of_a_target_acts_on_it() -> None:
    linear = traced("llama", "clt")
    effects, nodes = everything(linear), linear.features
    n = len(nodes)
    layer = torch.cat([nodes.layer, torch.arange(N_LAYERS).repeat_interleave(T), torch.full((T,), -1)])
    position = torch.cat([nodes.position, torch.arange(T).repeat(N_LAYERS + 1)])
    acts = (layer < nodes.layer[:, None]) & (position <= nodes.position[:, None])
    assert not effects[~acts].any()
    assert effects[acts & (position >= 1)].ne(0).double().mean() > 0.99
    assert n > 100


def test_leading_positions_are_no_sources_but_their_tokens_are() -> None:
    linear = traced("llama", "skip", zeroed=4)
    effects, n = everything(linear), len(linear.features)
    assert linear.features.position.min() == 4
    errors = effects[:, n : n + N_LAYERS * T].view(n, N_LAYERS, T)
    assert not errors[:, :, :4].any()
    assert errors[:, :, 4].any()
    assert effects[:, -T:].abs().min(0).values[:4].min() >= 0
    assert effects[:, -T].any()


def test_a_prompt_of_one_token_has_its_token_alone() -> None:
    linear = traced("gemma2", ids=IDS[:1])
    assert len(linear.features) == 0
    directions = torch.randn(1, D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = linear.rows(TargetRows(torch.tensor([N_LAYERS]), torch.tensor([0]), directions))
    assert rows.shape == (1, N_LAYERS + 1)
    assert not rows[0, :-1].any()
    assert rows[0, -1] != 0


def test_a_prompt_without_active_features_still_has_a_graph() -> None:
    silent = transcoders()
    silent.encoder_bias[:] = [bias - 100 for bias in silent.encoder_bias]
    linear = Autograd.trace(eager_model("llama"), silent, IDS)
    assert len(linear.features) == 0
    directions = torch.randn(1, D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert linear.rows(TargetRows(torch.tensor([N_LAYERS]), torch.tensor([T - 1]), directions)).ne(0).sum() > T


def test_what_is_kept_for_gradients_does_not_grow_with_the_batch() -> None:
    linear = traced("llama")
    targets = linear.targets(torch.arange(64) % len(linear.features))
    assert {tensor.shape[0] for tensor in (*linear.forward.reads, *linear.forward.writes)} == {1}
    assert len(linear.rows(targets)) == 64
    assert {tensor.shape[0] for tensor in (*linear.forward.reads, *linear.forward.writes)} == {1}


def test_rows_may_be_asked_for_in_inference_mode() -> None:
    model = eager_model("llama", torch.float32)
    sets = random_set("relu", n_layers=N_LAYERS, d_model=D_MODEL, dtype=torch.float32)
    truth = everything(Autograd.trace(model, sets, IDS))
    assert truth.dtype == torch.float32
    with torch.inference_mode():
        found = everything(Autograd.trace(model, sets, IDS))
    torch.testing.assert_close(found, truth, rtol=0, atol=0)
