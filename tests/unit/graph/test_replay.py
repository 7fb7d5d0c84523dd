"""Rows by replay are what changing one source at a time does to the frozen model, whatever else runs beside them."""

import dataclasses
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import core.graph.replay as replay_module
from core.graph.cost import CostModel, GraphSize
from core.graph.linear.weights import LinearWeights
from core.graph.linearised import TargetRows
from core.graph.replay import Replay, replay_rows
from core.graph.tracing import trace
from tests.unit.engine.families import D_MODEL, N_LAYERS, eager_model, hf_model

from .replacement import Replacement
from .sets import SETS, RandomSet, random_set

FAMILIES = ["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gemma3_with_images"]
IDS = (7, 3, 22, 60, 1, 44, 9)
every_family = pytest.mark.parametrize("family", FAMILIES)
every_set = pytest.mark.parametrize("kind", SETS)


def replayed(family: str, transcoders: RandomSet, ids: tuple[int, ...] = IDS, **changes: Any) -> Replay:
    prompt = trace(eager_model(family), transcoders, ids, **changes).with_encoders(transcoders)
    return Replay(LinearWeights.of_model(hf_model(family)).with_skips(transcoders), prompt)


def all_targets(replay: Replay) -> TargetRows:
    """Every feature, then two logits at the last position and one before it."""
    features = replay.targets(torch.arange(len(replay.features)))
    last = len(replay.token_ids) - 1
    directions = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(3))
    return TargetRows(
        torch.cat([features.layer, torch.full((3,), N_LAYERS)]),
        torch.cat([features.position, torch.tensor([last, last, max(last - 1, 0)])]),
        torch.cat([features.direction, directions]),
    )


def assert_near(measured: Tensor, truth: Tensor, tolerance: float = 1e-5) -> None:
    assert measured.shape == truth.shape
    assert (measured.double() - truth.double()).abs().max() <= tolerance * truth.abs().max()


@every_family
@every_set
def test_a_row_is_what_switching_on_each_source_alone_changes(family: str, kind: str) -> None:
    transcoders = random_set(kind)
    replay, truth = replayed(family, transcoders), Replacement(family, transcoders, IDS)
    assert replay.features.index.tolist() == truth.index.tolist()
    assert len(replay.features) > 2 * N_LAYERS
    targets = all_targets(replay)
    rows = replay.rows(targets)
    assert rows.dtype == torch.float32
    assert_near(rows, truth.rows(targets.layer, targets.position, targets.direction))


@every_family
@every_set
def test_the_truth_computes_what_the_model_computes(family: str, kind: str) -> None:
    truth = Replacement(family, random_set(kind), IDS, zeroed=0)
    reads, final = truth.run(torch.ones(1, truth.columns(), dtype=torch.float64), constants=True)
    torch.testing.assert_close(final[0].float(), truth.watched.outputs[truth.watched.family.norm], rtol=1e-3, atol=1e-4)
    if truth.transcoders.reads == "mlp_in":
        seen = truth.watched.outputs[truth.mlp_norm(N_LAYERS - 1)]
        torch.testing.assert_close(reads[-1][0].float(), seen, rtol=1e-3, atol=1e-4)


@every_family
def test_nothing_reaches_a_target_from_its_right_or_from_above(family: str) -> None:
    replay = replayed(family, random_set("clt"))
    targets, features = all_targets(replay), replay.features
    rows = replay.rows(targets)
    n = len(features)
    above = features.layer[None, :] >= targets.layer[:, None]
    right = features.position[None, :] > targets.position[:, None]
    assert not rows[:, :n][above | right].any()
    rest = rows[:, n:].unflatten(1, (N_LAYERS + 1, len(IDS)))
    positions = torch.arange(len(IDS))
    for row, layer, position in zip(rest, targets.layer.tolist(), targets.position.tolist(), strict=True):
        assert not row[layer:N_LAYERS].any()
        assert not row[:, positions > position].any()


@pytest.mark.parametrize("kind", ["plt_skip", "clt_inside"])
@every_family
def test_a_prompts_rows_are_the_same_to_the_bit_beside_others(family: str, kind: str) -> None:
    transcoders = random_set(kind)
    weights = LinearWeights.of_model(hf_model(family)).with_skips(transcoders)
    prompts = [IDS, IDS[:1], (5, 5, 1, 60, 2, 9, 41, 30, 12, 8, 3), IDS[2:5]]
    replays = [
        Replay(weights, trace(eager_model(family), transcoders, ids).with_encoders(transcoders)) for ids in prompts
    ]
    targets = [all_targets(replay) for replay in replays]
    targets[3] = targets[3][targets[3].layer < 2]  # a prompt whose rows begin below the others'
    alone = [replay.rows(wanted) for replay, wanted in zip(replays, targets, strict=True)]
    beside = replay_rows(list(zip(replays, targets, strict=True)))
    reversed_order = replay_rows(list(zip(replays, targets, strict=True))[::-1])[::-1]
    together = replay_rows(list(zip(replays, targets, strict=True)), together=True)
    for own, packed, turned, shared in zip(alone, beside, reversed_order, together, strict=True):
        assert torch.equal(own, packed)
        assert torch.equal(own, turned)
        assert_near(shared, own)


def test_two_threads_get_the_same_bits_as_one() -> None:
    replays = [replayed("llama", random_set("plt"), ids) for ids in (IDS, IDS[::-1])]
    targets = [all_targets(replay) for replay in replays]
    alone = [replay.rows(wanted) for replay, wanted in zip(replays, targets, strict=True)]
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(replays[i % 2].rows, targets[i % 2]) for i in range(20)]
        for i, future in enumerate(futures):
            assert torch.equal(future.result(), alone[i % 2])


def test_a_small_step_takes_one_thread_and_a_large_one_all(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    sweep = replay_module._run

    def counting(*given: Any) -> None:
        used.append(torch.get_num_threads())
        sweep(*given)

    monkeypatch.setattr(replay_module, "_run", counting)
    replay, before = replayed("llama", random_set("plt")), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        small = replay.rows(all_targets(replay))
        monkeypatch.setattr(replay_module, "_WORTH_SHARING", 0)
        large = replay.rows(all_targets(replay))
        assert used == [1, 2]
        assert torch.get_num_threads() == 2
        torch.testing.assert_close(small, large)
    finally:
        torch.set_num_threads(before)


@every_set
def test_a_frozen_prompt_gives_the_same_bits_after_a_pickle(kind: str) -> None:
    transcoders = random_set(kind)
    replay = replayed("gemma2", transcoders)
    pickled = pickle.dumps((replay.weights, replay.prompt))
    weights, prompt = pickle.loads(pickled)
    assert torch.equal(Replay(weights, prompt).rows(all_targets(replay)), replay.rows(all_targets(replay)))
    assert len(pickled) < 1.1 * (replay.weights.nbytes + replay.prompt.nbytes) + 20_000


@every_set
def test_keeping_some_features_leaves_out_only_the_others(kind: str) -> None:
    replay = replayed("gemma3", random_set(kind))
    n = len(replay.features)
    chosen = torch.arange(0, n, 3)
    kept = replay.keep(chosen)
    assert kept.features.index.tolist() == replay.features.index[chosen].tolist()
    whole = replay.rows(replay.targets(chosen))
    assert_near(kept.rows(kept.targets(torch.arange(len(chosen)))), torch.cat([whole[:, chosen], whole[:, n:]], 1))
    assert kept.prompt.nbytes < replay.prompt.nbytes


def test_the_order_of_targets_is_the_order_of_rows() -> None:
    replay = replayed("qwen3", random_set("plt"))
    targets = all_targets(replay)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    assert_near(replay.rows(targets[order]), replay.rows(targets)[order])


@every_set
def test_a_row_is_the_same_whichever_others_are_asked_for(kind: str) -> None:
    replay = replayed("gemma2", random_set(kind))
    targets = all_targets(replay)
    whole = replay.rows(targets)
    for layer in range(N_LAYERS + 1):
        for position in range(len(IDS)):
            some = ((targets.layer == layer) & (targets.position <= position)).nonzero().squeeze(1)
            if len(some):
                assert_near(replay.rows(targets[some]), whole[some])


def test_all_that_is_lost_by_leaving_encoders_out_is_features_as_targets() -> None:
    transcoders = random_set("plt")
    whole = replayed("llama", transcoders)
    bare = Replay(whole.weights, trace(eager_model("llama"), transcoders, IDS))
    logits = all_targets(whole)[-3:]
    assert torch.equal(bare.rows(logits), whole.rows(logits))
    with pytest.raises(ValueError, match="no encoder rows"):
        bare.targets(torch.tensor([0]))


@every_family
@pytest.mark.parametrize("kind", ["plt_skip", "clt"])
def test_a_prompt_of_one_token_has_the_token_and_nothing_else(family: str, kind: str) -> None:
    transcoders = random_set(kind)
    replay, truth = replayed(family, transcoders, (7,)), Replacement(family, transcoders, (7,))
    assert not len(replay.features)
    targets = all_targets(replay)
    rows = replay.rows(targets)
    assert rows.shape == (3, N_LAYERS + 1)
    assert_near(rows, truth.rows(targets.layer, targets.position, targets.direction))


@every_set
def test_without_active_features_errors_and_tokens_remain(kind: str) -> None:
    transcoders = random_set(kind, bias=-100.0)
    replay, truth = replayed("gemma2", transcoders), Replacement("gemma2", transcoders, IDS)
    assert not len(replay.features)
    targets = all_targets(replay)
    assert_near(replay.rows(targets), truth.rows(targets.layer, targets.position, targets.direction))


def test_no_targets_have_no_rows() -> None:
    replay = replayed("llama", random_set("plt"))
    nothing = all_targets(replay)[:0]
    assert replay.rows(nothing).shape == (0, replay.prompt.n_columns)
    assert replay_rows([(replay, nothing)], together=True)[0].shape == (0, replay.prompt.n_columns)
    assert replay_rows([]) == []


@every_set
def test_half_precision_comes_near(kind: str) -> None:
    replay = replayed("llama", random_set(kind))
    half = Replay(replay.weights.to("cpu", torch.bfloat16), replay.prompt)
    rows = half.rows(all_targets(replay))
    assert rows.dtype == torch.float32
    assert half.prompt.dtype == torch.bfloat16
    assert_near(rows, replay.rows(all_targets(replay)), tolerance=0.03)


@every_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [-2.0, 1.0])
def test_a_step_takes_no_more_memory_than_is_predicted(kind: str, dtype: torch.dtype, bias: float) -> None:
    transcoders = random_set(kind, bias=bias)
    replay = replayed("llama", transcoders, tuple(range(1, 40)))
    replay = Replay(replay.weights.to("cpu", dtype), replay.prompt)
    targets, n = all_targets(replay)[-64:], len(replay.features)
    size = GraphSize(
        N_LAYERS, n_tokens=len(replay.token_ids), d_model=D_MODEL, n_held=n, n_features=n, n_logits=3
    )  # fmt: skip
    model = CostModel.of(transcoders.shape, dtype.itemsize)
    cost = model.predict(size)
    gathered_bytes = cost.held_bytes - dataclasses.replace(model, widest=None).predict(size).held_bytes
    predicted = gathered_bytes + len(targets) * cost.row_bytes
    with Allocated() as allocated:
        replay.rows(targets)
    assert predicted / 4 < allocated.peak_bytes <= predicted


class Allocated(TorchDispatchMode):
    """The most bytes that tensors made while it is active held at once."""

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[int, int] = {}
        self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given:
                storage = tensor.untyped_storage()
                self._held[id(storage)] = storage.nbytes()
                weakref.finalize(storage, self._held.pop, id(storage))
        self.peak_bytes = max(self.peak_bytes, sum(self._held.values()))
        return made


def test_skip_matrices_are_not_forgotten() -> None:
    transcoders = random_set("plt_skip")
    prompt = trace(eager_model("llama"), transcoders, IDS)
    with pytest.raises(ValueError, match="skip matrices"):
        Replay(LinearWeights.of_model(hf_model("llama")), prompt)


def test_prompts_of_different_models_are_not_replayed_together() -> None:
    first, second = replayed("llama", random_set("plt")), replayed("mistral", random_set("plt"))
    with pytest.raises(ValueError, match="share their weights"):
        replay_rows([(first, all_targets(first)), (second, all_targets(second))])
