"""The shipped folder is what it says: complete, small, free of traces of the machine that built it."""

import json
import re

import pytest
import yaml
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from core.demo import ARTEFACTS
from core.demo.card import card
from core.demo.saes import FEATURES, SETS

ALLOWED = {".safetensors", ".json", ".yaml", ".md", ".jinja"}
FILES = sorted(path for path in ARTEFACTS.rglob("*") if path.is_file())
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:work|tmp|root|home|usr|var|mnt|opt)/")


def test_all_artefacts_together_are_small():
    assert sum(path.stat().st_size for path in FILES) <= 25 * 2**20


def test_only_data_formats_that_execute_nothing_are_shipped():
    assert {path.suffix for path in FILES} <= ALLOWED


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix != ".safetensors"], ids=lambda p: p.name)
def test_no_file_names_a_folder_of_the_building_machine(path):
    assert not ABSOLUTE.search(path.read_text(encoding="utf-8"))


def test_the_model_loads_with_the_auto_class_and_has_one_to_three_million_parameters():
    model = AutoModelForCausalLM.from_pretrained(ARTEFACTS / "model")
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.config.num_hidden_layers == 4
    assert model.config.max_position_embeddings >= 256
    assert 1e6 <= sum(p.numel() for p in model.parameters()) <= 3e6
    assert model.generation_config.eos_token_id == [2, 6]


@pytest.mark.parametrize("family", SETS, ids=lambda f: f.name)
@pytest.mark.parametrize("layer", range(4))
def test_sae_configurations_name_their_hook_and_need_no_normalisation(family, layer):
    cfg = json.loads((family.folder(ARTEFACTS, layer) / "cfg.json").read_text(encoding="utf-8"))
    hook = {"resid_post": f"blocks.{layer}.hook_resid_post", "z": f"blocks.{layer}.attn.hook_z"}[family.site]
    assert cfg["architecture"] == "jumprelu"
    assert cfg["normalize_activations"] == "none"
    assert cfg["metadata"]["hook_name"] == hook
    assert cfg["metadata"]["model_name"] == "rayscope-demo"
    assert (cfg["d_in"], cfg["d_sae"]) == (128, FEATURES)


def test_the_transcoder_folder_has_circuit_tracers_layout():
    folder = ARTEFACTS / "plt-demo"
    description = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert description["model_kind"] == "transcoder_set"
    assert description["feature_input_hook"] == "mlp.hook_in"
    assert description["feature_output_hook"] == "mlp.hook_out"
    for layer in range(4):
        with safe_open(folder / f"layer_{layer}.safetensors", "pt") as tensors:
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        width = shapes["b_enc"][0]
        assert shapes == {
            "W_enc": (width, 128),
            "W_dec": (width, 128),
            "b_enc": (width,),
            "b_dec": (128,),
            "activation_function.threshold": (width,),
        }


def test_the_card_says_what_was_measured(measured):
    assert (ARTEFACTS / "README.md").read_text(encoding="utf-8") == card(measured)
