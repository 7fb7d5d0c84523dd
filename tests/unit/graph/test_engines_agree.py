"""Two engines with nothing in common, the explicit adjoint and automatic differentiation, find the same graph."""

from dataclasses import fields
from functools import cache

import pytest
import torch
from torch import Tensor

from core.errors import InvalidRequest
from core.graph.autograd import Autograd
from core.graph.effects import FeatureNodes
from core.graph.linear.weights import LinearWeights
from core.graph.linearised import Linearised, TargetRows
from core.graph.replay import Replay
from core.graph.tracing import trace
from core.graph.transcoders.transcoder import ReadSite, WriteSite

from .architectures import ARCHITECTURES, D_MODEL, N_LAYERS, OTHERS, REPLAYED, eager_model
from .plain_sets import KINDS, PlainSet, random_set

IDS = (7, 3, 22, 60, 1, 44, 9, 13, 5)
NEAR = 1e-5  # of the largest effect
CASES = [(name, kind, "mlp_in", "mlp_out") for name in REPLAYED for kind in KINDS]
CASES += [
    (name, kind, site, writes)
    for name in REPLAYED
    for site in ARCHITECTURES[name].sites
    for writes in ("mlp_out", "mlp_contribution")
    for kind in ("skip", "clt")
    if (site, writes) != ("mlp_in", "mlp_out")
]

every = pytest.mark.parametrize(("name", "kind", "reads", "writes"), CASES)


def transcoders(kind: str, reads: ReadSite = "mlp_in", writes: WriteSite = "mlp_out") -> PlainSet:
    return random_set(kind, n_layers=N_LAYERS, d_model=D_MODEL, reads=reads, writes=writes, dtype=torch.float32)


@cache
def autograd(name: str, kind: str, reads: ReadSite, writes: WriteSite, zeroed: int = 1) -> Autograd:
    return Autograd.trace(eager_model(name, torch.float32), transcoders(kind, reads, writes), IDS, zeroed=zeroed)


@cache
def replay(name: str, kind: str, reads: ReadSite, writes: WriteSite, zeroed: int = 1) -> Replay:
    model, sets = eager_model(name, torch.float32), transcoders(kind, reads, writes)
    prompt = trace(model, sets, IDS, zeroed=zeroed).with_encoders(sets)
    return Replay(LinearWeights.of_model(model.module).with_skips(sets), prompt)


def logit_targets(name: str) -> TargetRows:
    unembedding = eager_model(name, torch.float32).module.get_output_embeddings().weight.detach()
    directions = (unembedding - unembedding.mean(0))[[5, 17, 40]]
    return TargetRows(torch.full((3,), N_LAYERS), torch.full((3,), len(IDS) - 1), directions)


def matrix(linear: Linearised, name: str) -> Tensor:
    everything = linear.targets(torch.arange(len(linear.features)))
    return torch.cat([linear.rows(everything), linear.rows(logit_targets(name))])


def check_near(found: Tensor, truth: Tensor) -> None:
    scale = float(truth.abs().max())
    assert scale > 0.1
    torch.testing.assert_close(found, truth, rtol=0, atol=NEAR * scale)


def same_nodes(one: FeatureNodes, other: FeatureNodes) -> None:
    for field in fields(FeatureNodes):
        torch.testing.assert_close(getattr(one, field.name), getattr(other, field.name), rtol=1e-4, atol=1e-5)


@every
def test_both_find_the_same_graph(name: str, kind: str, reads: ReadSite, writes: WriteSite) -> None:
    ours, truth = replay(name, kind, reads, writes), autograd(name, kind, reads, writes)
    assert len(truth.features) > 20
    same_nodes(ours.features, truth.features)
    check_near(matrix(ours, name), matrix(truth, name))


@pytest.mark.parametrize("name", REPLAYED)
def test_both_keep_the_same_part_of_it(name: str) -> None:
    ours, truth = (engine(name, "clt", "mlp_in", "mlp_out") for engine in (replay, autograd))
    chosen = torch.arange(1, len(truth.features), 3)
    same_nodes(ours.keep(chosen).features, truth.keep(chosen).features)
    check_near(matrix(ours.keep(chosen), name), matrix(truth.keep(chosen), name))


@pytest.mark.parametrize("name", REPLAYED)
def test_both_leave_out_the_same_leading_positions(name: str) -> None:
    ours, truth = (engine(name, "skip", "mlp_in", "mlp_out", 4) for engine in (replay, autograd))
    assert truth.features.position.min() >= 4
    same_nodes(ours.features, truth.features)
    check_near(matrix(ours, name), matrix(truth, name))


@pytest.mark.parametrize("name", REPLAYED)
def test_both_predict_the_same_tokens(name: str) -> None:
    ours, truth = (engine(name, "relu", "mlp_in", "mlp_out") for engine in (replay, autograd))
    torch.testing.assert_close(ours.prompt.logits, truth.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OTHERS)
def test_autograd_serves_what_replay_does_not_know(name: str) -> None:
    with pytest.raises(InvalidRequest, match="autograd"):
        trace(eager_model(name, torch.float32), transcoders("relu"), IDS)
    assert matrix(autograd(name, "relu", "mlp_in", "mlp_out"), name).abs().max() > 0.1
