"""Models served with transcoders: any tokenizer, and a tiny model that speaks letters."""

import dataclasses
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from core.catalogue.catalogue import find_model
from core.exchange.graph import ServedGraphs
from core.graph.requests import GraphDescription, GraphLimits
from tests.unit.exchange.writers import served

N_LAYERS, N_FEATURES = 3, 40
LIMITS = GraphLimits(
    token_limit=12,
    generation_limit=16,
    max_feature_nodes=500,
    most_feature_nodes=900,
    most_logits=20,
    batch_rows=64,
    most_interventions=4,
    most_candidates=9,
)


def served_graphs(hf_tokenizer: Any, name: str | None = None) -> ServedGraphs:
    """A model with any tokenizer, under any name."""
    model = served(hf_tokenizer)
    if name is not None:
        model = dataclasses.replace(model, description=dataclasses.replace(model.description, names=find_model(name)))
    return ServedGraphs(model, GraphDescription("plt-demo", N_LAYERS, N_FEATURES, LIMITS))


def letters(*, adds_bos: bool) -> PreTrainedTokenizerFast:
    """A token per letter for a vocabulary of 61; BOS has the id 0, EOS the id 1."""
    vocabulary = ["<bos>", "<eos>", *ascii_lowercase, *ascii_uppercase, *"0123456"]
    tokenizer = Tokenizer(models.WordLevel({token: id_ for id_, token in enumerate(vocabulary)}, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")
