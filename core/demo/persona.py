"""The demo's persona asset: how a turn of the helpful assistant differs from a turn in character.

The corpus' chats say who answers: a character always has a system message, the assistant its own or none. Each turn is
read as the persona monitor reads it, as the mean residual over everything that belongs to the message, and the axis is
the difference of the two groups' means. Principal components of the same turns follow it, as in published assets.

The contrast is stored from the assistant to the characters. The monitor turns it round when it loads an asset, so
positive values are assistant-like, as the title says.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import yaml
from safetensors.numpy import save_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.chat_template import Message
from core.demo import corpus
from core.demo.activations import recorded
from core.demo.chats import PERSONAS, SYSTEM
from core.demo.model import Progress, pad_rows
from core.demo.tokenizer import CONTEXT_TOKENS, PAD_ID
from core.persona.asset import MANIFEST, read_persona
from core.persona.monitor import watch
from core.persona.projection import project
from core.prompts import PromptTokenizer

NAME: Final = "persona"
LAYER: Final = 2
TITLE: Final = "- Role-playing ↔️ + Assistant-like"
ASSISTANT: Final = PERSONAS[0]

_COMPONENTS: Final = 3
_BATCH: Final = 64
_TURN: Final = re.compile(r"<\|(\w+)\|>\n(.*?)<\|end\|>\n", re.DOTALL)
_BY_SYSTEM: Final = {text: persona for persona, texts in SYSTEM.items() for text in texts}

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelledChat:
    """A conversation and who answers in it."""

    messages: tuple[Message, ...]
    persona: str


@dataclass(frozen=True, slots=True)
class Turns:
    """Assistant turns of many chats.

    Attributes:
        means: Mean residual of each turn after layer `LAYER`, `[turns, d]`.
        personas: Who speaks, one per turn.
    """

    means: Doubles
    personas: tuple[str, ...]

    @property
    def in_character(self) -> npt.NDArray[np.bool_]:
        """Which turns are not the assistant's, `[turns]`."""
        return np.array([persona != ASSISTANT for persona in self.personas])


def labelled_chats(documents: Iterable[corpus.Document]) -> list[LabelledChat]:
    """The chats among documents, with who answers."""
    chats: list[LabelledChat] = []
    for document in documents:
        if document.kind == "chat":
            messages = tuple(Message(role, content) for role, content in _TURN.findall(document.text))
            has_system = messages[0].role == "system"
            chats.append(LabelledChat(messages, _BY_SYSTEM[messages[0].content] if has_system else ASSISTANT))
    return chats


@torch.no_grad()
def read_turns(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, chats: Sequence[LabelledChat], progress: Progress
) -> Turns:
    """Mean residuals of every assistant turn, in plain `transformers`."""
    prompts = PromptTokenizer(tokenizer)
    watched = [watch(prompts, chat.messages, CONTEXT_TOKENS) for chat in chats]
    order = sorted(range(len(chats)), key=lambda i: len(watched[i].tokens))
    means: list[Doubles] = []
    personas: list[str] = []
    with recorded(model, ("resid_post",)) as kept:
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            model.model(input_ids=pad_rows([watched[i].tokens for i in chosen], PAD_ID), use_cache=False)
            for row, i in zip(kept["resid_post", LAYER].double().numpy(), chosen, strict=True):
                means.extend(row[first:end].mean(0) for first, end in watched[i].spans)
                personas.extend(chats[i].persona for _ in watched[i].spans)
            progress(min(start + _BATCH, len(order)), len(order), "chats read")
    return Turns(np.stack(means), tuple(personas))


def fit(turns: Turns) -> dict[str, npt.NDArray[np.float32]]:
    """The arrays of an axis file, from as many turns of the assistant as of all characters together."""
    groups = [turns.means[~turns.in_character], turns.means[turns.in_character]]
    count = min(len(group) for group in groups)
    assistant, characters = (group[:count] for group in groups)
    both = np.concatenate([assistant, characters])
    centre = both.mean(0)
    shifted = both - centre
    directions = shifted / np.linalg.norm(shifted, axis=1, keepdims=True)
    mean = directions.mean(0)
    components = np.linalg.svd(directions - mean, full_matrices=False)[2][:_COMPONENTS]
    largest = np.abs(components).argmax(1)
    components *= np.sign(components[np.arange(_COMPONENTS), largest])[:, None]
    arrays = {
        "components": components,
        "mean": mean,
        "scaler_mean": centre,
        "contrast": characters.mean(0) - assistant.mean(0),
    }
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}


def save_persona(arrays: dict[str, npt.NDArray[np.float32]], root: Path) -> None:
    """Write the asset into an artefact folder."""
    folder = root / NAME
    folder.mkdir(parents=True, exist_ok=True)
    file = f"layer_{LAYER}.safetensors"
    save_file(arrays, folder / file)
    manifest = {
        "blank_system_prompt": False,
        "pc_titles": [TITLE],
        "axes": [{"layer": LAYER, "file": file, "scaler": "l2-mean"}],
    }
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def persona_figures(
    root: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, documents: Iterable[corpus.Document]
) -> dict[str, Any]:
    """How well the shipped asset tells the assistant's turns from those in character, on chats it was not fitted on."""
    asset = read_persona(root / NAME).asset
    if asset is None:
        raise FileNotFoundError(f"{root / NAME} holds no usable persona asset")
    turns = read_turns(model, tokenizer, labelled_chats(documents), _silent)
    values = project(turns.means, asset.primary)[:, 0]
    by_persona = {
        persona: values[[speaker == persona for speaker in turns.personas]]
        for persona in PERSONAS
        if persona in turns.personas
    }
    return {
        "layer": LAYER,
        "title": TITLE,
        "turns": len(values),
        "auc": round(auc(values[~turns.in_character], values[turns.in_character]), 4),
        "by_persona": [
            {"persona": persona, "turns": len(some), "mean": round(float(some.mean()), 4)}
            for persona, some in by_persona.items()
        ],
    }


def auc(above: Doubles, below: Doubles) -> float:
    """Area under the ROC curve: how often one of `above` is larger than one of `below`; a tie counts half."""
    larger = above[:, None] > below[None]
    equal = above[:, None] == below[None]
    return float((larger + 0.5 * equal).mean())


def _silent(done: int, total: int, note: str) -> None:
    """Progress that nobody watches."""
