"""The demo is served like any other model, from files that ship with the package."""

from pathlib import Path

import pytest
import torch

from core.catalogue.catalogue import SourceFilter, find_model, find_sources, weights_location
from core.catalogue.sources import Folder
from core.demo import ARTEFACTS, DEMO_MODEL_ID
from core.errors import NotFound

SETS = ["res-demo", "att-demo"]


def test_the_demo_is_found_by_its_name_and_needs_no_hub() -> None:
    names = find_model(DEMO_MODEL_ID)
    assert (names.id, names.aliases, names.weights) == (DEMO_MODEL_ID, (), DEMO_MODEL_ID)
    assert (Path(weights_location(names.weights)) / "model.safetensors").is_file()


def test_the_demo_has_one_source_per_layer_and_set() -> None:
    from transformers import AutoConfig

    layers = AutoConfig.from_pretrained(weights_location(DEMO_MODEL_ID)).num_hidden_layers
    sources = find_sources(DEMO_MODEL_ID, SETS)
    assert [source.id for source in sources] == [f"{layer}-{name}" for name in SETS for layer in range(layers)]
    for source in sources:
        assert source.origin == Folder(str(ARTEFACTS / source.source_set / source.id))
        hook = "attn.hook_z" if source.source_set == "att-demo" else "hook_resid_post"
        assert source.hook_name == f"blocks.{source.layer}.{hook}"
        assert source.dfa == (source.source_set == "att-demo")


def test_the_demo_is_filtered_like_any_other_model() -> None:
    found = find_sources(DEMO_MODEL_ID, SETS, wanted=SourceFilter(include=("^0-",), exclude=("att",)))
    assert [source.id for source in found] == ["0-res-demo"]


def test_a_set_that_the_demo_does_not_have_is_not_found_and_the_hint_names_its_sets() -> None:
    with pytest.raises(NotFound) as refusal:
        find_sources(DEMO_MODEL_ID, ["res-jb"])
    assert "res-demo, att-demo" in (refusal.value.hint or "")


@pytest.mark.parametrize("source_set", SETS)
@torch.no_grad()
def test_demo_features_fire_as_saelens_and_transformers_say(source_set: str) -> None:
    from sae_lens import SAE
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from core.engine.model import EagerModel
    from core.saes.loading import load_sae

    source = find_sources(DEMO_MODEL_ID, [source_set], wanted=SourceFilter(include=("^1-",)))[0]
    assert isinstance(source.origin, Folder)
    weights = weights_location(DEMO_MODEL_ID)
    ids = AutoTokenizer.from_pretrained(weights)("Le chat dort sur le tapis.")["input_ids"]
    plain = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()
    kept: list[torch.Tensor] = []
    layer = plain.model.layers[1]
    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: kept.append(args[0])),
        layer.register_forward_hook(lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out)),
    ]
    plain(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    raw = SAE.load_from_disk(source.origin.path)
    raw.turn_off_forward_pass_hook_z_reshaping()
    expected = raw.encode(kept[SETS[::-1].index(source_set)])[0] * raw.W_dec.norm(dim=-1)
    assert (expected > 0).any()

    rows = EagerModel.load(weights, device="cpu", dtype="float32").capture([ids], {source.hook_name})
    found = load_sae(source, dtype="float32").encode(rows.activations[source.hook_name][0])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
