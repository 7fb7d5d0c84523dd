import gzip
import json

import numpy as np
import pytest
import torch

from core.autointerp.caching.exemplars import ExemplarReader
from core.autointerp.caching.neuronpedia_export import export_neuronpedia
from core.autointerp.sampling import SamplerSettings, sample
from core.demo import ARTEFACTS
from core.errors import InvalidRequest, NotFound
from tests.truth import folder_sae

SOURCE = "1-res-demo"


@pytest.fixture
def reader(cache, tokenizer):
    return ExemplarReader(cache, tokenizer)


def windows_of(cache, latent):
    """All exemplar windows with a latent's activations, from the records."""
    dense = np.zeros((cache.n_windows, cache.context_tokens), np.float32)
    for first, records in cache.records(SOURCE, range(latent, latent + 1)):
        dense[records.windows + first, records.positions] = records.activations
    return dense.reshape(-1, cache.window_tokens), cache.tokens.reshape(-1, cache.window_tokens)


def busiest(cache):
    return int(cache.range_of(SOURCE, 0).reservoir.fired_windows.argmax())


def test_examples_are_windows_of_the_corpus_with_their_own_activations(cache, reader, tokenizer):
    latent = busiest(cache)
    values, tokens = windows_of(cache, latent)
    texts = {}
    for window in range(len(values)):
        text = tokens[window] != tokenizer.bos_id
        strings = tuple(tokenizer.hf.decode([token]) for token in tokens[window][text])
        texts.setdefault(strings, []).append(tuple(values[window][text].tolist()))
    known = reader.exemplars(SOURCE, latent)
    assert len(known.active) > 10
    for example in (*known.active, *known.silent):
        assert example.activations in texts[example.tokens]
    assert all(example.is_active for example in known.active)
    assert not any(example.is_active for example in known.silent)


def test_the_strongest_window_comes_first_and_no_text_twice(cache, reader):
    latent = busiest(cache)
    values, _ = windows_of(cache, latent)
    known = reader.exemplars(SOURCE, latent)
    assert known.active[0].maximum == values.max()
    maxima = [example.maximum for example in known.active]
    assert maxima == sorted(maxima, reverse=True)
    assert len({example.tokens for example in known.active}) == len(known.active)
    assert known.fired_windows == (values.max(1) > 0).sum()
    assert known.fired_tokens == (values > 0).sum()
    assert known.n_windows == len(values)


def test_quantiles_are_those_of_all_windows_within_two(cache, reader):
    latent = busiest(cache)
    values, _ = windows_of(cache, latent)
    maxima = np.sort(values.max(1)[values.max(1) > 0])
    for example in reader.exemplars(SOURCE, latent).active:
        rank = (
            np.searchsorted(maxima, example.maximum, "left") + np.searchsorted(maxima, example.maximum, "right")
        ) / 2
        exact = min(int(rank / len(maxima) * 10), 9) + 1
        assert abs(example.quantile - exact) <= 2


def test_logits_are_the_decoder_row_through_the_unembedding(reader, tokenizer):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(ARTEFACTS / "model", dtype=torch.float64)
    row = folder_sae(ARTEFACTS / "res-demo" / SOURCE).W_dec[7].double()
    effects = model.get_output_embeddings().weight @ (row / row.norm())
    best, worst = effects.topk(10), effects.topk(10, largest=False)
    known = reader.exemplars(SOURCE, 7)
    assert known.top_logits == tokenizer.str_tokens(best.indices.tolist())
    assert known.bottom_logits == tokenizer.str_tokens(worst.indices.tolist())
    assert known.top_values == pytest.approx(best.values.tolist(), abs=1e-5)
    assert known.bottom_values == pytest.approx(worst.values.tolist(), abs=1e-5)


def test_the_sampler_takes_the_examples(cache, reader):
    known = reader.exemplars(SOURCE, busiest(cache))
    record = sample(known.name, known.active, known.silent, SamplerSettings(n_train=5, n_test=5, n_silent=5))
    assert len(record.train) == len(record.test) == 5
    assert not {example.text for example in record.train} & {example.text for example in record.test}


def test_a_latent_that_never_fired_has_no_active_example(cache, reader):
    dead = int(cache.range_of(SOURCE, 0).reservoir.fired_windows.argmin())
    known = reader.exemplars(SOURCE, dead)
    assert known.fired_tokens == 0
    assert known.active == ()
    assert len(known.silent) > 10


def test_what_is_not_cached_is_refused(reader):
    with pytest.raises(NotFound, match="0-res-demo"):
        reader.exemplars("0-res-demo", 0)
    for latent in (-1, 1024):
        with pytest.raises(InvalidRequest, match="out of range"):
            reader.exemplars(SOURCE, latent)


def test_neuronpedia_lines_say_what_the_reader_says(cache, reader, tokenizer, tmp_path):
    latent = busiest(cache)
    files = export_neuronpedia(cache, tokenizer, tmp_path, SOURCE, latents=[latent, 3, 7], per_batch=2)
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        f"{kind}/batch-{n}.jsonl.gz" for n in (0, 1) for kind in ("features", "activations")
    ]
    features, activations = (
        [json.loads(line) for line in gzip.decompress(file.read_bytes()).decode().splitlines()] for file in files[:2]
    )
    known = reader.exemplars(SOURCE, latent)
    assert [feature["index"] for feature in features] == [str(latent), "3"]
    assert features[0]["modelId"] == "rayscope-demo"
    assert features[0]["layer"] == SOURCE
    assert features[0]["pos_str"] == list(known.top_logits)
    assert features[0]["frac_nonzero"] == known.fired_tokens / cache.tokens.size
    assert sum(features[0]["freq_hist_data_bar_heights"]) == known.fired_windows
    mine = [row for row in activations if row["index"] == str(latent)]
    assert [row["values"] for row in mine[:20]] == [list(example.activations) for example in known.active[:20]]
    assert len({row["id"] for row in activations}) == len(activations)
    for row in mine:
        assert row["maxValue"] == max(row["values"]) == row["values"][row["maxValueTokenIndex"]]
        assert row["minValue"] == min(row["values"])
        assert len(row["tokens"]) == len(row["values"])
    again = export_neuronpedia(cache, tokenizer, tmp_path / "again", SOURCE, latents=[latent, 3, 7], per_batch=2)
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files]
