"""Attribution weights come out of a model or a checkpoint the same, and go through a file unchanged."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import InvalidRequest
from core.graph.linear.weights import LinearWeights
from tests.unit.engine.families import D_MODEL, N_LAYERS, hf_model

from .sets import random_set
from .test_replay import FAMILIES

every_family = pytest.mark.parametrize("family", FAMILIES)


def assert_same(one: LinearWeights, other: LinearWeights) -> None:
    for field in fields(LinearWeights):
        left: Any = getattr(one, field.name)
        right: Any = getattr(other, field.name)
        left, right = (x if isinstance(x, tuple) else (x,) for x in (left, right))
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


@every_family
@pytest.mark.parametrize("shards", ["one file", "several files"])
def test_a_checkpoint_gives_what_the_loaded_model_gives(family: str, shards: str, tmp_path: Path) -> None:
    model = hf_model(family)
    model.save_pretrained(tmp_path, max_shard_size="20KB" if shards == "several files" else "1GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shards == "several files")
    assert_same(LinearWeights.of_checkpoint(tmp_path), LinearWeights.of_model(model))


@every_family
@pytest.mark.parametrize("kind", ["plt", "plt_skip"])
def test_a_file_gives_back_what_was_saved(family: str, kind: str, tmp_path: Path) -> None:
    weights = LinearWeights.of_model(hf_model(family), dtype=torch.bfloat16).with_skips(random_set(kind))
    weights.save(tmp_path / "weights.safetensors")
    assert_same(LinearWeights.load(tmp_path / "weights.safetensors"), weights)


def test_they_cost_little_more_than_values_and_outputs() -> None:
    weights = LinearWeights.of_model(hf_model("llama"), dtype=torch.bfloat16)
    assert weights.dtype == torch.bfloat16
    assert weights.head_dim == 8
    assert weights.nbytes == 2 * N_LAYERS * D_MODEL * (4 + 2) * 8 + 4 * (2 * N_LAYERS + 1) * D_MODEL


def test_changing_them_does_not_change_the_model() -> None:
    model = hf_model("llama")
    before = model.model.layers[0].self_attn.o_proj.weight.detach().clone()
    LinearWeights.of_model(model).outputs[0].zero_()
    assert torch.equal(model.model.layers[0].self_attn.o_proj.weight, before)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    hf_model("llama").config.save_pretrained(tmp_path)
    with pytest.raises(InvalidRequest, match="no safetensors weights"):
        LinearWeights.of_checkpoint(tmp_path)


def test_another_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"values.0": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InvalidRequest, match="no attribution weights"):
        LinearWeights.load(tmp_path / "other.safetensors")


def test_an_unknown_family_is_refused_with_the_way_out() -> None:
    with pytest.raises(InvalidRequest, match="gpt_neox") as refused:
        LinearWeights.of_model(hf_model("neox"))
    assert "autograd engine" in str(refused.value.hint)
