"""delphi comes in by one door, leaves global state alone, and gets one text per token."""

import random
import subprocess
import sys

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from core.autointerp.delphi_import import PerTokenDecoding, delphi_module
from core.autointerp.delphi_records import latent_record

from .scripted import cats_and_stones

_FRESH = """
import random, sys
import core.autointerp.registry as registry
early = {"delphi", "torch", "vllm", "transformers"} & set(sys.modules)
import datasets, numpy, sentence_transformers, torch  # they draw from `random` as they are imported; delphi does not
before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
from core.autointerp.prompts import load_prompts
load_prompts()
after = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
print(sorted(early), "vllm" in sys.modules, torch.cuda.is_initialized(), before == after)
"""


def test_delphi_is_imported_late_without_vllm_and_leaves_the_random_state_alone() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FRESH], capture_output=True, text=True, check=False, timeout=300
    )
    assert run.stdout.strip().splitlines()[-1] == "[] False False True", run.stderr


def test_a_tokenizer_gives_delphi_one_text_per_token() -> None:
    vocabulary = {"Ġcat": 0, "Ġdog": 1, "Ġsat": 2}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="Ġcat"))
    plain.decoder = decoders.ByteLevel()
    tokenizer = PerTokenDecoding(PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="Ġcat"))
    for ids in ([0, 2, 1], torch.tensor([0, 2, 1]), np.array([0, 2, 1])):
        assert tokenizer.batch_decode(ids) == [" cat", " sat", " dog"]
    assert tokenizer.batch_decode(torch.tensor([[0, 2], [1, 2]])) == [" cat sat", " dog sat"]
    assert tokenizer.batch_decode([]) == []
    assert tokenizer.unk_token == "Ġcat"


def test_a_feature_as_delphi_has_it_keeps_texts_activations_and_kinds() -> None:
    ours = cats_and_stones()
    theirs = latent_record(ours, "cats")
    assert str(theirs.latent) == "3-res_latent7"
    assert theirs.explanation == "cats"
    for mine, other in zip((*ours.train, *ours.test), (*theirs.train, *theirs.test), strict=True):
        assert other.str_tokens == list(mine.tokens)
        assert other.activations.tolist() == list(mine.activations)
        assert len(other.str_tokens) == len(other.activations) == len(other.normalized_activations)
        assert other.normalized_activations.max() <= 10
    assert [one.quantile for one in theirs.test[:3]] == [0, 1, 2]
    assert [one.distance for one in theirs.not_active] == [0.25] * 5


def test_the_same_module_is_given_twice_without_touching_random() -> None:
    before = random.getstate()
    assert delphi_module("explainers") is delphi_module("explainers")
    assert random.getstate() == before
