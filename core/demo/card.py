"""The model card, written from `measurements.json` and from nothing else.

A figure that was not measured cannot appear in it; a test compares the two.
"""

from pathlib import Path
from typing import Any

Figures = dict[str, Any]


def card(measured: Figures) -> str:
    """The model card as Markdown."""
    parts = (
        _opening(measured),
        _model(measured["model"], measured["training"]),
        _dictionaries(measured),
        _features(measured["features"]),
        _steering(measured["steering"]),
        _persona(measured["persona"]),
        _examples(measured["examples"]),
        _limits(measured),
    )
    return "\n\n".join(parts) + "\n"


def write_card(measured: Figures, path: Path) -> None:
    """Write the card beside the artefacts."""
    path.write_text(card(measured), encoding="utf-8")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _code(text: str) -> str:
    """Text in a table cell, exactly as it is but on one line."""
    visible = text.replace("\n", "⏎").replace("|", "\\|")
    return f"`{visible}`"


def _paragraph(*lines: str) -> str:
    """One paragraph, written as several strings to keep the source readable."""
    return " ".join(lines)


def _opening(measured: Figures) -> str:
    parameters = measured["model"]["parameters"] / 1e6
    text = _paragraph(
        f"A {parameters:.2f} M parameter Llama that speaks English, French and Spanish about one small world, with",
        "sparse autoencoders on every residual stream and attention output and a transcoder for every MLP. It exists",
        "so that Rayscope can be tried, tested and shown in five minutes on a laptop without a hub.",
        "`python -m core.demo.train` rebuilds everything in this folder, this page included; every figure below comes",
        "from `measurements.json`.",
    )
    sae = "`sae_lens.SAE.load_from_disk`"
    table = _table(
        ("folder", "what", "loads with"),
        [
            ("`model/`", "Llama, 4 layers, width 128, 4 heads, byte-level BPE, chat template", "`transformers`"),
            ("`res-demo/<layer>-res-demo/`", "JumpReLU SAE on `blocks.<layer>.hook_resid_post`", sae),
            ("`att-demo/<layer>-att-demo/`", "JumpReLU SAE on `blocks.<layer>.attn.hook_z`, heads concatenated", sae),
            ("`plt-demo/`", "transcoders, `mlp.hook_in` to `mlp.hook_out`", "circuit-tracer, by absolute path"),
            ("`persona/`", "the direction between assistant and role play, for the persona monitor", "`safetensors`"),
        ],
    )
    return f"# rayscope-demo\n\n{text}\n\n{table}"


def _model(model: Figures, training: Figures) -> str:
    asked = {
        "held-out sentences (the fact is known in this language in other words)": model["held_out_facts"],
        "facts never stated in this language, only in the other two": model["unseen_in_language"],
    }
    table = _table(
        ("greedy accuracy on", "statements", "next token", "whole answer"),
        [
            (
                name,
                figures["statements"],
                _percent(figures["next_token_accuracy"]),
                _percent(figures["whole_answer_accuracy"]),
            )
            for name, figures in asked.items()
        ],
    )
    minutes: dict[str, float] = {}
    for stage, value in training["minutes"].items():
        group = stage.partition(" layer")[0]
        minutes[group] = minutes.get(group, 0.0) + value
    stages = ", ".join(f"{name} {value:.1f}" for name, value in minutes.items())
    trained = _paragraph(
        f"Trained on {training['documents']:,} documents ({training['corpus_tokens'] / 1e6:.2f} M tokens,",
        f"{training['epochs']} epochs) of facts, translations, sports, capitals, counting, weekdays, arithmetic,",
        f"sentiment, stories and chats. Vocabulary {model['vocabulary']}. On {model['held_out_tokens']:,} tokens of",
        f"held-out text its loss is {model['held_out_loss_nats']:.3f} nats per token.",
    )
    held_out = _paragraph(
        "A combination of fact, language and template is held out: that sentence is in no training document. Each",
        "prompt stands alone behind `<bos>`. Next token counts every token of the answer, article included, given the",
        "ones before; a whole answer is right when all of them are the first choice.",
    )
    built = _paragraph(
        f"Built in {training['total_minutes']} minutes on {training['threads']} threads of a shared machine",
        f"(minutes: {stages}), seed {training['seed']}.",
    )
    return f"## Model\n\n{trained}\n\n{table}\n\n{held_out}\n\n{built}"


def _dictionaries(measured: Figures) -> str:
    rows: list[tuple[Any, ...]] = []
    for name in ("res-demo", "att-demo", "plt-demo"):
        layers = measured[name]["layers"] if name == "plt-demo" else measured[name]
        rows.extend(
            (
                f"`{layer['layer']}-{name}`",
                layer["features"],
                f"{layer['explained_variance']:.3f}",
                f"{layer['l0']:.1f}",
                _percent(layer["dead_fraction"]),
            )
            for layer in layers
        )
    table = _table(("source", "features", "explained variance", "L0", "dead on held-out text"), rows)
    transcoders, loss = measured["plt-demo"], measured["model"]["held_out_loss_nats"]
    explained = _paragraph(
        "Explained variance is `1 - |x - y|²/|x - mean(x)|²` over tokens of held-out text; for `plt-demo`, x is the",
        "MLP's output. `<bos>` is excluded from training and from these figures: its residual is one constant vector",
        "of a much larger norm, so ignore what features do at position 0. Decoder rows have norm 1,",
        "`normalize_activations` is `none`, and the threshold is one number per SAE (Matryoshka BatchTopK saved as",
        "JumpReLU).",
    )
    replaced = _paragraph(
        "With all four MLPs replaced by their transcoders the loss is",
        f"{transcoders['loss_with_all_mlps_replaced_nats']:.3f} nats per token, against {loss:.3f} of the model and",
        f"{transcoders['loss_without_mlps_nats']:.3f} with the MLPs silenced.",
    )
    return f"## Sparse dictionaries\n\n{table}\n\n{explained}\n\n{replaced}"


def _features(features: list[Figures]) -> str:
    table = _table(
        ("fires on", "source", "feature", "fires above", "precision", "recall", "strongest tokens"),
        [
            (
                f["concept"],
                f"`{f['source']}`",
                f["index"],
                f"{f['cut']:.2f}",
                _percent(f["precision"]),
                _percent(f["recall"]),
                " ".join(_code(token) for token in f["tokens"][:5]),
            )
            for f in features
        ],
    )
    contexts = "\n".join(
        f"- **{f['concept']}** (`{f['source']}` {f['index']}): "
        + " · ".join(f"{_code(c['text'])} {c['activation']:.2f}" for c in f["contexts"][:3])
        for f in features
    )
    text = _paragraph(
        "Named by measurement: the corpus knows the language, the word class and the chat turn of every token;",
        'precision and recall are of "the feature is above the cut" against that label, on held-out text.',
        "Features 0 to 3 of every `res-demo` SAE started training at the mean directions of English, French, Spanish",
        "and digits and then moved freely; all others started at random.",
    )
    return (
        f"## Named features\n\n{text}\n\n{table}\n\n"
        f"Where they fire most, the token between `[[` and `]]`:\n\n{contexts}"
    )


def _steering(steering: Figures) -> str:
    table = _table(
        ("French prompt", "unsteered", "steered with Spanish"),
        [(_code(e["prompt"]), _code(e["unsteered"]), _code(e["steered"])) for e in steering["examples"][:10]],
    )
    text = _paragraph(
        f"Adding {steering['strength']} times the decoder row of `{steering['source']}` feature {steering['index']}",
        f"(Spanish) to the residual stream after layer {steering['layer']} at every position turns",
        f"{_percent(steering['steered_spanish'])} of {steering['prompts']} French prompts Spanish; without it",
        f"{_percent(steering['unsteered_french'])} continue in French and {_percent(steering['unsteered_spanish'])} in",
        "Spanish. Greedy, 20 tokens, judged by words that the corpus uses in one language only; a text that repeats",
        "one word does not count.",
    )
    return f"## Steering\n\n{text}\n\n{table}"


def _persona(persona: Figures) -> str:
    table = _table(
        ("who speaks", "turns", "mean value"),
        [(row["persona"], row["turns"], f"{row['mean']:.3f}") for row in persona["by_persona"]],
    )
    text = _paragraph(
        f"`persona/` holds one axis, {_code(persona['title'])}: the mean residual after layer {persona['layer']} over",
        "the assistant's turns minus that over turns in character, of the corpus' own chats. A turn's value is the",
        "projection of its own mean, centred and scaled to length 1. On held-out chats a random turn of the assistant",
        f"lies above a random turn in character in {_percent(persona['auc'])} of pairs (area under the ROC curve,",
        f"{persona['turns']} turns). Characters have a system message that names them, which their turns can see.",
    )
    return f"## Persona\n\n{text}\n\n{table}"


def _examples(examples: list[Figures]) -> str:
    table = _table(
        ("prompt", "greedy completion"),
        [(_code(e["prompt"]), _code(e["completion"])) for e in examples],
    )
    return f"## Completions\n\n{table}"


def _limits(measured: Figures) -> str:
    weakest = sorted(
        (right / asked, relation)
        for relation, (right, asked) in measured["model"]["held_out_facts"]["by_relation"].items()
    )[:3]
    weak = ", ".join(f"{relation} {_percent(share)}" for share, relation in weakest)
    text = _paragraph(
        "It knows this world and nothing else; outside of it, it makes things up fluently. Weakest held-out relations:",
        f"{weak}. The people are invented. The three languages are regular and narrow, so language is easier to steer",
        "here than in a large model. Do not use it for anything but trying out interpretability tools.",
    )
    return f"## Limits\n\n{text}"
