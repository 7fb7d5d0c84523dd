"""Rebuild the demo model and its dictionaries: `python -m core.demo.train`.

    corpus -> tokenizer -> model -> res-demo, att-demo (SAELens), plt-demo -> persona -> measurements.json -> README.md
    |--------- "model" --------|    |---------- "dictionaries" ---------|    "persona"   |----- "measurements" ------|

One command, no input but the seed, no network. Every stage draws from the seed alone and reads what the stages before
it wrote, so starting at a later stage (`--start dictionaries`) gives the same bytes as a whole run. The result is
the same for the same seed, thread count and CPU type.
"""

import ctypes
import json
import math
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from core.demo import ARTEFACTS
from core.demo import model as language_model
from core.demo.activations import collect
from core.demo.card import write_card
from core.demo.concepts import label_all
from core.demo.corpus import documents
from core.demo.measure import measure
from core.demo.persona import fit, labelled_chats, read_turns, save_persona
from core.demo.saes import RES_DEMO, SETS, concept_directions, save_sae, train_sae
from core.demo.tokenizer import load_tokenizer, train_tokenizer
from core.demo.transcoders import Transcoder, save_transcoders, train_transcoder

THREADS = 2
DOCUMENTS = 70_000
EPOCHS = 2
RESIDUAL_NORM = 16.0
DICTIONARY_DOCUMENTS = 8_000
LABELLED_DOCUMENTS = 1_500


class Start(StrEnum):
    """The first stage to run; the folder holds what the earlier ones wrote."""

    MODEL = "model"
    DICTIONARIES = "dictionaries"
    PERSONA = "persona"
    MEASUREMENTS = "measurements"


class Stages:
    """Progress bars, one per stage, and what is remembered of the build: figures and minutes.

    Attributes:
        record: The `training` part of `measurements.json`, kept on disk while the build runs.
    """

    def __init__(self, bars: Progress, out: Path) -> None:
        self._bars = bars
        self._file = out / "measurements.json"
        self.record: dict[str, Any] = {"minutes": {}}
        if self._file.exists():
            self.record = json.loads(self._file.read_text(encoding="utf-8"))["training"]

    @contextmanager
    def stage(self, name: str) -> Generator[language_model.Progress]:
        """A stage of the build; yields what reports its progress."""
        task = self._bars.add_task(name, total=None, note="")
        started = time.monotonic()

        def report(done: int, total: int, note: str) -> None:
            self._bars.update(task, completed=done, total=total, note=note)

        yield report
        self._bars.update(task, completed=1, total=1)
        self.record["minutes"][name] = round((time.monotonic() - started) / 60, 2)
        self.record["total_minutes"] = round(sum(self.record["minutes"].values()), 1)
        self.write({})

    def write(self, measured: dict[str, Any]) -> dict[str, Any]:
        """Write the measurements so far, with the record of the build."""
        whole = {**measured, "training": self.record}
        text = json.dumps(whole, indent=1, ensure_ascii=False)
        self._file.write_text(text + "\n", encoding="utf-8")
        return whole


def build_language_model(out: Path, seed: int, stages: Stages) -> None:
    """Corpus, tokenizer and model, written to `model/`."""
    with stages.stage("corpus and tokenizer"):
        texts = [document.text for document in documents(seed, DOCUMENTS)]
        tokenizer = train_tokenizer(texts)
        rows = language_model.encode_documents(tokenizer, texts)
    with stages.stage("model") as progress:
        model = language_model.build_model(len(tokenizer), seed)
        loss = language_model.train_model(model, rows, EPOCHS, seed, progress)
        residual = collect(model, rows[:500], ("resid_post",)).at["resid_post", 1]
        shrink = math.log2(RESIDUAL_NORM / residual.norm(dim=1).mean().item())
        language_model.rescale_residual(model, 2.0 ** round(shrink))
        model.save_pretrained(out / "model")
        tokenizer.save_pretrained(out / "model")
    stages.record |= {
        "seed": seed,
        "threads": torch.get_num_threads(),
        "documents": len(rows),
        "corpus_tokens": sum(len(row) for row in rows),
        "epochs": EPOCHS,
        "training_loss_nats": round(loss, 4),
    }
    stages.write({})


def build_dictionaries(out: Path, seed: int, stages: Stages) -> None:
    """Both SAE sets and the transcoders, from the model in `model/`."""
    model, tokenizer = language_model.load_model(out / "model"), load_tokenizer(out / "model")
    drawn = list(documents(seed, DICTIONARY_DOCUMENTS))
    rows = language_model.encode_documents(tokenizer, [document.text for document in drawn])
    stages.record["dictionary_tokens"] = sum(len(row) - 1 for row in rows)
    few = rows[:LABELLED_DOCUMENTS]
    labelled = collect(model, few, (RES_DEMO.site,))
    labels = label_all(tokenizer, drawn[: len(few)], labelled.row, labelled.position, [len(row) for row in few])
    for family in SETS:
        seen = collect(model, rows, (family.site,))
        for layer in range(language_model.LAYERS):
            with stages.stage(f"{family.name} layer {layer}") as progress:
                activations = seen.at[family.site, layer]
                starts = torch.empty(0, activations.shape[1])
                if family is RES_DEMO:
                    starts = concept_directions(labelled.at[family.site, layer], labels)
                sae = train_sae(family, layer, activations, starts, seed + layer, progress)
                save_sae(sae, family.folder(out, layer))
    seen = collect(model, rows, ("mlp_in", "mlp_out"))
    transcoders: list[Transcoder] = []
    for layer in range(language_model.LAYERS):
        with stages.stage(f"plt-demo layer {layer}") as progress:
            pair = seen.at["mlp_in", layer], seen.at["mlp_out", layer]
            transcoders.append(train_transcoder(*pair, seed + layer, progress))
    save_transcoders(transcoders, out)


def build_persona(out: Path, seed: int, stages: Stages) -> None:
    """The persona asset, from the model in `model/`."""
    model, tokenizer = language_model.load_model(out / "model"), load_tokenizer(out / "model")
    with stages.stage("persona") as progress:
        chats = labelled_chats(documents(seed, DICTIONARY_DOCUMENTS))
        save_persona(fit(read_turns(model, tokenizer, chats, progress)), out)


def build(out: Path, seed: int, start: Start, bars: Progress) -> None:
    """Build the artefacts in a folder.

    Args:
        out: Written; emptied first when the build starts with the model.
        seed: Decides the corpus, the initial weights and the order of training.
        start: The first stage to run.
        bars: Shows progress.
    """
    if start is Start.MODEL and out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    stages = Stages(bars, out)
    if start is Start.MODEL:
        build_language_model(out, seed, stages)
    if start in (Start.MODEL, Start.DICTIONARIES):
        build_dictionaries(out, seed, stages)
    if start is not Start.MEASUREMENTS:
        build_persona(out, seed, stages)
    with stages.stage("measurements") as progress:
        measured = measure(out, progress)
    write_card(stages.write(measured), out / "README.md")


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: handing 25 MB of logits back after every step costs more than the arithmetic."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mmap_threshold, trim_threshold, top_pad = -3, -1, -2
        mallopt(mmap_threshold, 32 * 2**20)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 256 * 2**20)


def main(
    out: Annotated[Path, typer.Option(help="Folder that receives the artefacts.")] = ARTEFACTS,
    seed: Annotated[int, typer.Option(help="Seed of the corpus and of all training.")] = 0,
    start: Annotated[Start, typer.Option(help="First stage to run.")] = Start.MODEL,
) -> None:
    """Rebuild the demo model, its tokenizer, its SAE sets, its transcoders, its persona asset and its model card."""
    _keep_freed_memory()
    torch.set_num_threads(THREADS)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
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
        build(out, seed, start, bars)


if __name__ == "__main__":
    typer.run(main)
