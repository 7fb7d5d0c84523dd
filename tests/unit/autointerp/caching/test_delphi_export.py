"""Our export against delphi 0.1.3 itself: its cache, and its reader."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from core.autointerp.caching.delphi_export import export_delphi
from core.autointerp.delphi_import import PerTokenDecoding, delphi_module
from core.demo import ARTEFACTS
from core.errors import InvalidRequest
from tests.truth import folder_sae

SOURCE, MODULE = "1-res-demo", "model.layers.1"


@pytest.fixture(scope="module")
def delphi():
    return SimpleNamespace(
        cache=delphi_module("latents.cache"), config=delphi_module("config"), loader=delphi_module("latents.loader")
    )


def rows_of(path):
    """The entries of a shard in one order: `[n, 3]` locations and `[n]` activations."""
    tensors = load_file(path)
    locations = tensors["locations"].astype(np.int64)
    order = np.lexsort(locations.T)
    return locations[order], tensors["activations"][order]


def test_shards_hold_what_delphis_own_cache_writes(cache, delphi, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(ARTEFACTS / "model", dtype=torch.float32).eval()
    theirs = delphi.cache.LatentCache(model, {MODULE: folder_sae(ARTEFACTS / "res-demo" / SOURCE).encode}, batch_size=8)
    tokens = torch.from_numpy(cache.tokens.astype(np.int64))
    with torch.no_grad():
        theirs.run(tokens.numel(), tokens)
    theirs.save_splits(3, tmp_path / "theirs")
    files = export_delphi(cache, tmp_path / "ours", sources=[SOURCE], n_splits=3)
    their_files = sorted((tmp_path / "theirs" / MODULE).iterdir())
    assert sorted(file.name for file in files) == [file.name for file in their_files]
    for their_file in their_files:
        locations, activations = rows_of(their_file)
        at_bos = cache.tokens[locations[:, 0], locations[:, 1]] == 1  # we keep nothing there
        our_locations, our_activations = rows_of(tmp_path / "ours" / SOURCE / their_file.name)
        np.testing.assert_array_equal(our_locations, locations[~at_bos])
        np.testing.assert_allclose(our_activations, activations[~at_bos], rtol=2e-3, atol=1e-3)
        one, other = load_file(tmp_path / "ours" / SOURCE / their_file.name), load_file(their_file)
        assert {name: tensor.dtype for name, tensor in one.items()} == {
            name: tensor.dtype for name, tensor in other.items()
        }
        np.testing.assert_array_equal(one["tokens"], other["tokens"])


def test_delphis_reader_reads_the_export_back(cache, tokenizer, delphi, tmp_path):
    export_delphi(cache, tmp_path, n_splits=4)
    dataset = delphi.loader.LatentDataset(
        str(tmp_path),
        delphi.config.SamplerConfig(),
        delphi.config.ConstructorConfig(example_ctx_len=16),
        tokenizer=PerTokenDecoding(tokenizer.hf),
    )
    assert sorted(dataset.modules) == ["1-res-demo", "2-res-demo"]
    assert np.array_equal(dataset.tokens.numpy(), cache.tokens)
    assert dataset.cache_config["cache_ctx_len"] == cache.context_tokens
    seen = {name: {} for name in dataset.modules}
    for buffer in dataset.buffers:
        for latent in buffer:
            data = latent.activation_data
            seen[latent.module][latent.latent.latent_index] = (data.locations.numpy(), data.activations.numpy())
    for source in cache.sources:
        expected = {}
        for first, records in cache.records(source, range(1024)):
            for latent, window, position, value in zip(
                records.latents, records.windows, records.positions, records.activations, strict=True
            ):
                expected.setdefault(int(latent), []).append(([first + window, position, latent], value))
        assert seen[source].keys() == expected.keys()
        for latent, (locations, activations) in seen[source].items():
            assert locations.tolist() == [place for place, _ in expected[latent]]
            np.testing.assert_array_equal(
                activations, np.array([value for _, value in expected[latent]]).astype(np.float16)
            )


def test_a_shard_without_any_activation_is_read_too(cache, delphi, tmp_path):
    files = export_delphi(cache, tmp_path, sources=[SOURCE], n_splits=1024)
    empty = [file for file in files if not len(load_file(file)["activations"])]
    assert empty
    buffer = delphi.loader.TensorBuffer(str(empty[0]), SOURCE)
    assert list(buffer) == []
    assert np.array_equal(buffer.tokens.numpy(), cache.tokens)


def test_the_configuration_is_one_that_delphi_knows(cache, delphi, tmp_path):
    export_delphi(cache, tmp_path, sources=[SOURCE], n_splits=2, model_name="some/model")
    config = json.loads((tmp_path / SOURCE / "config.json").read_text())
    assert config.pop("model_name") == "some/model"
    known = delphi.config.CacheConfig(**config)
    assert known.to_dict() == config
    assert known.n_tokens == cache.tokens.size
    assert known.n_splits == 2


def test_more_files_than_latents_are_refused(cache, tmp_path):
    with pytest.raises(InvalidRequest, match="1024 latents"):
        export_delphi(cache, tmp_path, n_splits=1025)
