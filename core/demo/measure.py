"""Everything the model card states, measured on the finished artefacts as a user would load them.

The held-out text is a fresh draw of documents: same world, other sentences, none of them trained on as a document,
with a seed of its own. `<bos>` is left out of every figure. The result is one JSON document; the card only formats
it.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.demo import corpus
from core.demo.activations import Activations, collect, explained_variance
from core.demo.concepts import Labels, label_all
from core.demo.features import NamedFeature, candidates, name_features
from core.demo.model import LAYERS, Progress, encode_documents, load_model, pad_rows
from core.demo.persona import persona_figures
from core.demo.recall import Recall, recall
from core.demo.saes import RES_DEMO, SETS, START_CONCEPTS, SaeSet, load_sae
from core.demo.steering import FRENCH_PROMPTS, complete, language_of, share_in, steered
from core.demo.tokenizer import PAD_ID, load_tokenizer
from core.demo.transcoders import Transcoder, load_transcoders

HELD_OUT_SEED = 9001
HELD_OUT_DOCUMENTS = 1200
EXAMPLES: tuple[str, ...] = (
    "The capital of the country that contains Lyon is",
    "Fact: Michael Jordan plays the sport of",
    "Le contraire de petit est",
    "Monday, Tuesday, Wednesday,",
    "El gato duerme sobre",
    "3 + 4 =",
    "Once upon a time there was",
)
CHATS: tuple[tuple[str | None, str], ...] = (
    (None, "What is the capital of Italy?"),
    ("You are a pirate. Stay in character.", "What is the capital of Italy?"),
    ("Eres un robot. No salgas de tu papel.", "¿Quién eres?"),
)
_STRENGTHS = (2.0, 3.0, 4.0, 6.0)
_STEERING_CANDIDATES = 4
_NAMED_F1 = 0.7


def held_out_documents() -> list[corpus.Document]:
    """The documents every figure is measured on."""
    return list(corpus.documents(HELD_OUT_SEED, HELD_OUT_DOCUMENTS))


@torch.no_grad()
def mean_loss(model: LlamaForCausalLM, rows: Sequence[list[int]]) -> float:
    """Cross-entropy in nats per token over whole documents."""
    total = tokens = 0.0
    for start in range(0, len(rows), 64):
        chunk = rows[start : start + 64]
        inputs, labels = pad_rows(chunk, PAD_ID), pad_rows(chunk, -100)[:, 1:]
        logits = model(input_ids=inputs, use_cache=False).logits[:, :-1]
        total += float(nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
        tokens += float((labels >= 0).sum())
    return total / tokens


def measure(root: Path, progress: Progress) -> dict[str, Any]:
    """Measure an artefact folder.

    Args:
        root: Holds `model/`, the SAE sets, the transcoder set and the persona asset.
        progress: Told after every stage.

    Returns:
        What `measurements.json` holds.
    """
    stages = 5 + len(SETS)
    model, tokenizer = load_model(root / "model"), load_tokenizer(root / "model")
    documents = held_out_documents()
    rows = encode_documents(tokenizer, [document.text for document in documents])
    result: dict[str, Any] = {"model": _model_figures(model, tokenizer, rows)}
    progress(1, stages, "facts measured")
    seen = collect(model, rows, ("resid_post", "z", "mlp_in", "mlp_out"))
    labels = label_all(tokenizer, documents, seen.row, seen.position, [len(row) for row in rows])
    named: list[NamedFeature] = []
    for done, family in enumerate(SETS, start=2):
        layers: list[dict[str, Any]] = []
        for layer in range(LAYERS):
            figures, features = _sae_figures(root, family, layer, seen, labels, rows, tokenizer)
            layers.append(figures)
            named.extend(features if family is RES_DEMO else [])
        result[family.name] = layers
        progress(done, stages, f"{family.name} measured")
    result["plt-demo"] = _transcoder_figures(load_transcoders(root), model, rows, seen)
    progress(stages - 3, stages, "plt-demo measured")
    result["steering"] = _steering(root, model, tokenizer, seen, labels)
    progress(stages - 2, stages, "steering measured")
    result["persona"] = persona_figures(root, model, tokenizer, documents)
    progress(stages - 1, stages, "persona measured")
    result["features"] = _best_features(named)
    result["examples"] = _examples(model, tokenizer)
    progress(stages, stages, "done")
    return result


def _model_figures(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: Sequence[list[int]]
) -> dict[str, Any]:
    split = corpus.split()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "held_out_tokens": sum(len(row) - 1 for row in rows),
        "held_out_loss_nats": round(mean_loss(model, rows), 4),
        "held_out_facts": _recall_figures(recall(model, tokenizer, corpus.statements(split.held_out))),
        "unseen_in_language": _recall_figures(recall(model, tokenizer, corpus.statements(split.unseen))),
    }


def _recall_figures(r: Recall) -> dict[str, Any]:
    return {
        "statements": r.statements,
        "whole_answer_accuracy": round(r.accuracy, 4),
        "next_token_accuracy": round(r.next_token_accuracy, 4),
        "by_relation": {k: [right, asked] for k, (right, asked) in sorted(r.by_relation.items())},
    }


@torch.no_grad()
def _sae_figures(
    root: Path,
    family: SaeSet,
    layer: int,
    seen: Activations,
    labels: Labels,
    rows: Sequence[list[int]],
    tokenizer: PreTrainedTokenizerFast,
) -> tuple[dict[str, Any], list[NamedFeature]]:
    sae = load_sae(family.folder(root, layer))
    x = seen.at[family.site, layer]
    encoded = sae.encode(x)
    figures = {
        "layer": layer,
        "hook": sae.cfg.metadata.hook_name,
        **_dictionary_figures(x, sae.decode(encoded), encoded),
    }
    source = f"{layer}-{family.name}"
    return figures, name_features(encoded, labels, layer, source, rows, seen, tokenizer)


def _dictionary_figures(target: Tensor, approximation: Tensor, encoded: Tensor) -> dict[str, Any]:
    active = encoded > 0
    return {
        "features": encoded.shape[1],
        "explained_variance": round(explained_variance(target, approximation), 4),
        "l0": round(active.sum(1).float().mean().item(), 2),
        "dead_fraction": round((~active.any(0)).float().mean().item(), 4),
    }


@torch.no_grad()
def _transcoder_figures(
    transcoders: Sequence[Transcoder], model: LlamaForCausalLM, rows: Sequence[list[int]], seen: Activations
) -> dict[str, Any]:
    layers = [
        {
            "layer": layer,
            **_dictionary_figures(
                seen.at["mlp_out", layer],
                transcoder(seen.at["mlp_in", layer]),
                transcoder.encode(seen.at["mlp_in", layer]),
            ),
        }
        for layer, transcoder in enumerate(transcoders)
    ]
    with ExitStack() as stack:
        for block, transcoder in zip(cast("Any", model.model.layers), transcoders, strict=True):
            handle = block.mlp.register_forward_hook(_replacement(transcoder))
            stack.callback(handle.remove)
        replaced = mean_loss(model, rows)
    with ExitStack() as stack:
        for block in cast("Any", model.model.layers):
            handle = block.mlp.register_forward_hook(_silence)
            stack.callback(handle.remove)
        silenced = mean_loss(model, rows)
    return {
        "layers": layers,
        "loss_with_all_mlps_replaced_nats": round(replaced, 4),
        "loss_without_mlps_nats": round(silenced, 4),
    }


def _replacement(transcoder: Transcoder) -> Any:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        approximation = transcoder(inputs[0])
        approximation[:, 0] = output[:, 0]
        return approximation

    return hook


def _silence(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    silent = torch.zeros_like(output)
    silent[:, 0] = output[:, 0]
    return silent


def _steering(
    root: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seen: Activations, labels: Labels
) -> dict[str, Any]:
    """The Spanish feature and strength that turn most prompts; searched on a third of the prompts, stated on all."""
    tried: list[dict[str, Any]] = []
    for layer in range(LAYERS):
        sae = load_sae(RES_DEMO.folder(root, layer))
        encoded = sae.encode(seen.at["resid_post", layer]).detach()
        for index in candidates(encoded, labels, "Spanish", _STEERING_CANDIDATES):
            column = encoded[:, index]
            for multiple in _STRENGTHS:
                strength = round(multiple * column[column > 0].mean().item(), 1)
                with steered(model, layer, sae.W_dec[index].detach(), strength):
                    share = share_in("es", complete(model, tokenizer, FRENCH_PROMPTS[::3]))
                found = {"layer": layer, "index": index, "strength": strength, "spanish": round(share, 4)}
                tried.append({"source": f"{layer}-{RES_DEMO.name}", **found})
    best = max(tried, key=lambda t: (t["spanish"], t["layer"] in (1, 2), -t["strength"]))
    direction = load_sae(RES_DEMO.folder(root, best["layer"])).W_dec[best["index"]].detach()
    unsteered = complete(model, tokenizer, FRENCH_PROMPTS)
    with steered(model, best["layer"], direction, best["strength"]):
        texts = complete(model, tokenizer, FRENCH_PROMPTS)
    return {
        **{key: best[key] for key in ("source", "layer", "index", "strength")},
        "prompts": len(FRENCH_PROMPTS),
        "unsteered_french": round(share_in("fr", unsteered), 4),
        "unsteered_spanish": round(share_in("es", unsteered), 4),
        "steered_spanish": round(share_in("es", texts), 4),
        "examples": [
            {"prompt": prompt, "unsteered": before, "steered": after, "language": language_of(after)}
            for prompt, before, after in zip(FRENCH_PROMPTS, unsteered, texts, strict=True)
        ],
        "search": tried,
    }


def _best_features(named: Sequence[NamedFeature]) -> list[dict[str, Any]]:
    """The best layer's feature of every concept, if good; started concepts always, with every good layer."""
    kept: list[NamedFeature] = []
    for concept in dict.fromkeys(feature.concept for feature in named):
        same = sorted((f for f in named if f.concept == concept), key=lambda f: -f.f1)
        good = [feature for feature in same if feature.f1 >= _NAMED_F1]
        kept.extend((good or same[:1]) if concept in START_CONCEPTS else good[:1])
    return [
        {
            key: round(value, 4) if isinstance(value, float) else value
            for key, value in {**asdict(feature), "f1": feature.f1}.items()
        }
        for feature in kept
    ]


def _examples(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> list[dict[str, str]]:
    completions = complete(model, tokenizer, EXAMPLES)
    shown = [{"prompt": p, "completion": c} for p, c in zip(EXAMPLES, completions, strict=True)]
    for system, question in CHATS:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": question})
        rendered = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        prompt = rendered.removeprefix("<bos>")
        shown.append({"prompt": prompt, "completion": complete(model, tokenizer, [prompt], new_tokens=40)[0]})
    return shown
