"""Which features are active, against loops over single numbers."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from core.graph.transcoders.activations import Activation, JumpRelu, Relu, TopK
from core.graph.transcoders.transcoder import ActiveFeatures

POSITIONS, FEATURES = 7, 53
CUTS = [(FEATURES,), (20, 33), (1, 2, 50), (10, 10, 10, 10, 13)]


def pre_activations(seed: int = 0) -> Tensor:
    return torch.randn(POSITIONS, FEATURES, generator=torch.Generator().manual_seed(seed))


def thresholds() -> Tensor:
    return 0.8 * torch.randn(FEATURES, generator=torch.Generator().manual_seed(1))  # some below 0


def blocks(before: Tensor, cut: tuple[int, ...]) -> Iterator[tuple[int, Tensor]]:
    first = 0
    for part in before.split(cut, dim=1):
        yield first, part
        first += part.shape[1]


def listed(active: ActiveFeatures) -> list[tuple[int, int, float]]:
    return list(zip(active.position.tolist(), active.index.tolist(), active.value.tolist(), strict=True))


def naive(activation: Activation, before: Tensor) -> list[tuple[int, int, float]]:
    found: list[tuple[int, int, float]] = []
    for position, row in enumerate(before.tolist()):
        largest = sorted(range(FEATURES), key=lambda index: -row[index])
        for index, value in enumerate(row):
            match activation:
                case TopK(k):
                    active = index in largest[:k]
                case JumpRelu(threshold):
                    active = value > threshold[index].item()
                case _:
                    active = value > 0
            if active:
                found.append((position, index, value))
    return found


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("activation", [Relu(), JumpRelu(thresholds()), TopK(5), TopK(FEATURES)], ids=str)
def test_active_features_are_those_of_a_loop_however_the_encoder_is_cut(
    activation: Activation, cut: tuple[int, ...]
) -> None:
    before = pre_activations()
    expected = naive(activation, before)
    assert len(expected) > POSITIONS
    assert listed(activation.active(blocks(before, cut))) == expected


def test_a_value_at_its_threshold_is_not_active() -> None:
    before, threshold = torch.tensor([[0.5, 0.5, 0.5]]), torch.tensor([0.5, 0.4, 0.6])
    assert listed(JumpRelu(threshold).active([(0, before)])) == [(0, 1, 0.5)]


def test_topk_keeps_negative_values_as_circuit_tracer_does() -> None:
    before = torch.tensor([[-3.0, -1.0, -2.0, 0.5]])
    assert listed(TopK(2).active([(0, before)])) == [(0, 1, -1.0), (0, 3, 0.5)]


@pytest.mark.parametrize("activation", [Relu(), JumpRelu(torch.zeros(4)), TopK(2)], ids=str)
def test_exact_zeros_are_not_active(activation: Activation) -> None:
    assert len(activation.active([(0, torch.zeros(3, 4))])) == 0


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_nothing_active_is_an_empty_answer(cut: tuple[int, ...]) -> None:
    active = Relu().active(blocks(-torch.ones(POSITIONS, FEATURES), cut))
    assert (len(active), active.position.dtype, active.index.dtype) == (0, torch.int64, torch.int64)
