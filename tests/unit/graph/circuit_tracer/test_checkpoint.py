"""A folder of transformers 5 says the same to transformers 4.57. That 4.57 understands it, `tests/oracle` shows."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.graph.circuit_tracer.checkpoint import export, older_config, older_tokenizer


def test_a_rotary_base_keeps_its_value():
    older = older_config({"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}, "hidden_size": 8})
    assert older == {"rope_theta": 500.0, "hidden_size": 8, "dtype": "float32"}


def test_a_scaled_rotary_embedding_keeps_its_scale():
    scaled = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
    older = older_config({"rope_parameters": scaled | {"rope_theta": 5e5}, "dtype": "bfloat16"})
    assert older == {"rope_theta": 5e5, "rope_scaling": scaled, "dtype": "bfloat16"}


def test_layers_of_two_kinds_keep_their_bases():
    kinds = {
        "sliding_attention": {"rope_theta": 10.0, "rope_type": "default"},
        "full_attention": {"rope_theta": 20.0, "rope_type": "linear", "factor": 8.0},
    }
    older = older_config({"text_config": {"rope_parameters": kinds}})["text_config"]
    assert (older["rope_local_base_freq"], older["rope_theta"]) == (10.0, 20.0)
    assert older["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}


def test_what_the_older_one_has_no_words_for_is_refused():
    kinds = {
        "sliding_attention": {"rope_theta": 10.0, "rope_type": "linear", "factor": 8.0},
        "full_attention": {"rope_theta": 20.0, "rope_type": "default"},
    }
    with pytest.raises(ValueError, match="sliding_attention"):
        older_config({"rope_parameters": kinds})


def test_an_older_config_stays_as_it_is():
    config = {"rope_theta": 500.0, "rope_scaling": None, "torch_dtype": "float16", "dtype": "float16"}
    assert older_config(config) == config


def test_a_tokenizer_keeps_its_class_and_special_tokens():
    newer = {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers", "extra_special_tokens": ["<a>"]}
    older = {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<a>"]}
    assert older_tokenizer(newer) == older
    assert older_tokenizer(older) == older


def test_weights_are_linked_and_not_copied(tmp_path: Path):
    folder, to = tmp_path / "model", tmp_path / "older"
    files: dict[str, Any] = {"config.json": {"a": 1}, "tokenizer_config.json": {"b": 2}, "tokenizer.json": {}}
    for place in (folder, to):
        place.mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"weights")
    assert export(folder, to) == to
    assert (to / "model.safetensors").resolve() == folder / "model.safetensors"
    assert {file.name for file in to.iterdir()} == {*files, "model.safetensors"}
    assert not (to / "config.json").is_symlink()
