"""A cache against the naive way: the whole corpus through plain transformers and SAELens, densely."""

from functools import cache as once

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from core.autointerp.caching.corpus import TokenPart
from core.autointerp.caching.recording import Recorder, RecordingLimits
from core.catalogue.catalogue import find_sources
from core.demo import ARTEFACTS, DEMO_MODEL_ID
from core.engine.model import EagerModel
from core.errors import TooLarge
from core.saes.loading import load_sae
from tests.truth import folder_sae
from tests.unit.autointerp.caching.conftest import CONTEXT

LAYERS = (1, 2)


@once
def dense(tokens_bytes):
    """Activations of each layer's SAE at every token, `[windows, context, latents]`, zero at BOS."""
    from transformers import AutoModelForCausalLM

    tokens = np.frombuffer(tokens_bytes, np.int32).reshape(-1, CONTEXT)
    model = AutoModelForCausalLM.from_pretrained(ARTEFACTS / "model", dtype=torch.float32).eval()
    kept = {}
    for layer in LAYERS:
        model.model.layers[layer].register_forward_hook(lambda _, __, output, layer=layer: kept.update({layer: output}))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(tokens.astype(np.int64)))
        found = {}
        for layer in LAYERS:
            sae = folder_sae(ARTEFACTS / "res-demo" / f"{layer}-res-demo")
            codes = sae.encode(kept[layer][0] if isinstance(kept[layer], tuple) else kept[layer])
            codes[torch.from_numpy(tokens == 1)] = 0
            found[layer] = codes.numpy()
    return found


def as_dense(records, shape):
    filled = np.zeros(shape, np.float32)
    filled[records.windows, records.positions, records.latents] = records.activations
    return filled


@pytest.fixture(scope="session")
def recording():
    """The demo with the SAEs of layers 1 and 2."""
    model = EagerModel.load(str(ARTEFACTS / "model"), device="cpu")
    sources = find_sources(DEMO_MODEL_ID, ["res-demo"])
    return model, [load_sae(sources[layer], dtype="float32") for layer in LAYERS]


def test_a_cache_holds_what_a_dense_pass_computes_and_nothing_else(cache):
    truth = dense(cache.tokens.tobytes())
    for layer in LAYERS:
        parts = [
            as_dense(records, (8, CONTEXT, 1024)) for _, records in cache.records(f"{layer}-res-demo", range(1024))
        ]
        np.testing.assert_allclose(np.concatenate(parts), truth[layer], atol=2e-4, rtol=1e-4)
        assert (truth[layer] > 0).mean() > 0.005  # there was something to compare


def test_reading_a_range_of_latents_reads_those(cache):
    for (_, some), (_, whole) in zip(
        cache.records("1-res-demo", range(100, 300)), cache.records("1-res-demo", range(1024)), strict=True
    ):
        inside = (whole.latents >= 100) & (whole.latents < 300)
        assert some.latents.tolist() == whole.latents[inside].tolist()
        assert some.activations.tolist() == whole.activations[inside].tolist()


@pytest.mark.parametrize(("batch_tokens", "slice_numbers"), [(1, 1), (3 * CONTEXT, 50 * 1024), (10**6, 2**26)])
def test_batches_and_slices_change_nothing_but_memory(recording, cache, batch_tokens, slice_numbers):
    model, saes = recording
    limits = RecordingLimits(batch_tokens=batch_tokens, slice_numbers=slice_numbers)
    part = TokenPart(0, 0, cache.tokens[:5])
    truth = dense(cache.tokens.tobytes())
    for name, records in Recorder(model, saes, silent_tokens=(1,), limits=limits).record(part).items():
        np.testing.assert_allclose(as_dense(records, (5, CONTEXT, 1024)), truth[int(name[0])][:5], atol=2e-4, rtol=1e-4)


def test_only_what_is_above_the_threshold_is_kept(recording, cache):
    model, saes = recording
    part = TokenPart(0, 0, cache.tokens[:5])
    everything = Recorder(model, saes, silent_tokens=(1,)).record(part)["1-res-demo"]
    strong = Recorder(model, saes, silent_tokens=(1,), threshold=2.0).record(part)["1-res-demo"]
    assert 0 < len(strong) < len(everything)
    assert sorted(strong.activations) == sorted(everything.activations[everything.activations > 2.0])


def test_no_dense_encoding_is_larger_than_a_slice(recording, cache, monkeypatch):
    model, saes = recording
    seen = []
    encode = type(saes[0]).encode

    def watched(self, rows):
        codes = encode(self, rows)
        seen.append(codes.numel())
        return codes

    monkeypatch.setattr(type(saes[0]), "encode", watched)
    limits = RecordingLimits(batch_tokens=8 * CONTEXT, slice_numbers=16 * 1024)
    Recorder(model, saes, silent_tokens=(1,), limits=limits).record(TokenPart(0, 0, cache.tokens[:16]))
    assert max(seen) == 16 * 1024
    assert sum(seen) == 2 * 16 * (CONTEXT - 1) * 1024  # BOS was not even encoded


def test_records_take_eight_bytes_each(demo_folder):
    for path in (demo_folder / "records" / "1-res-demo").iterdir():
        tensors = load_file(path)
        entries = len(tensors["activations"])
        assert sum(tensor.nbytes for tensor in tensors.values()) == 8 * entries + 8 * 1025


def test_more_records_than_allowed_are_refused(recording, cache):
    model, saes = recording
    with pytest.raises(TooLarge, match="100 activations of part 7"):
        Recorder(model, saes, limits=RecordingLimits(max_records=100)).record(TokenPart(7, 0, cache.tokens[:4]))
