"""Rebuild the demo model and its dictionaries: `python -m core.demo.train`.

    corpus -> tokenizer -> model -> res-demo, att-demo (SAELens) -> plt-demo -> measurements.json -> README.md

One command, no input but the seed, no network. The result is the same for the same seed, thread count and CPU type.
"""

import json
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from core.demo import ARTEFACTS
from core.demo import model as language_model
from core.demo.activations import collect
from core.demo.card import write_card
from core.demo.corpus import documents
from core.demo.measure import measure
from core.demo.saes import SETS, save_sae, train_sae
from core.demo.tokenizer import train_tokenizer
from core.demo.transcoders import Transcoder, save_transcoders, train_transcoder

THREADS = 2
DOCUMENTS = 64_000
EPOCHS = 3
DICTIONARY_DOCUMENTS = 8_000
SAE_STEPS = 600


class Stages:
    """Progress bars, one per stage, and the seconds each stage took."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Generator[language_model.Progress]:
        """A stage of the build; yields what reports its progress."""
        task = self._bars.add_task(name, total=None, note="")
        started = time.monotonic()

        def report(done: int, total: int, note: str) -> None:
            self._bars.update(task, completed=done, total=total, note=note)

        yield report
        self._bars.update(task, completed=1, total=1)
        group = name.partition(" layer")[0]
        self.seconds[group] = self.seconds.get(group, 0) + time.monotonic() - started


def build(out: Path, seed: int, stages: Stages) -> dict[str, Any]:
    """Build every artefact in a folder.

    Args:
        out: Emptied and written.
        seed: Decides the corpus, the initial weights and the order of training.
        stages: Shows progress and takes the times.

    Returns:
        The measurements, as written to `measurements.json`.
    """
    if out.exists():
        shutil.rmtree(out)
    with stages.stage("corpus and tokenizer"):
        texts = [document.text for document in documents(seed, DOCUMENTS)]
        tokenizer = train_tokenizer(texts)
        rows = language_model.encode_documents(tokenizer, texts)
    with stages.stage("model") as progress:
        model = language_model.build_model(len(tokenizer), seed)
        training_loss = language_model.train_model(model, rows, EPOCHS, seed, progress)
        model.save_pretrained(out / "model")
        tokenizer.save_pretrained(out / "model")
    sample = rows[:DICTIONARY_DOCUMENTS]
    for family in SETS:
        seen = collect(model, sample, (family.site,))
        for layer in range(language_model.LAYERS):
            with stages.stage(f"{family.name} layer {layer}") as progress:
                sae = train_sae(family, layer, seen.at[family.site, layer], SAE_STEPS, seed + layer, progress)
                save_sae(sae, family.folder(out, layer))
    seen = collect(model, sample, ("mlp_in", "mlp_out"))
    transcoders: list[Transcoder] = []
    for layer in range(language_model.LAYERS):
        with stages.stage(f"plt-demo layer {layer}") as progress:
            pair = seen.at["mlp_in", layer], seen.at["mlp_out", layer]
            transcoders.append(train_transcoder(*pair, SAE_STEPS, seed + layer, progress))
    save_transcoders(transcoders, out)
    with stages.stage("measurements") as progress:
        measured = measure(out, progress)
    measured["training"] = {
        "seed": seed,
        "threads": torch.get_num_threads(),
        "documents": len(rows),
        "corpus_tokens": sum(len(row) for row in rows),
        "epochs": EPOCHS,
        "training_loss_nats": round(training_loss, 4),
        "dictionary_tokens": sum(len(row) - 1 for row in sample),
        "minutes": {name: round(s / 60, 2) for name, s in stages.seconds.items()},
        "total_minutes": round(sum(stages.seconds.values()) / 60, 1),
    }
    (out / "measurements.json").write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_card(measured, out / "README.md")
    return measured


def main(
    out: Annotated[Path, typer.Option(help="Folder that receives the artefacts; it is emptied.")] = ARTEFACTS,
    seed: Annotated[int, typer.Option(help="Seed of the corpus and of all training.")] = 0,
) -> None:
    """Rebuild the demo model, its tokenizer, its SAE sets, its transcoders and its model card."""
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as bars:
        build(out, seed, Stages(bars))


if __name__ == "__main__":
    typer.run(main)
