"""Tiny models and transcoders as both sides read them: folders on disk."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from core.engine.model import EagerModel
from core.graph.attribution import Choice, attribute
from core.graph.autograd import Autograd
from core.graph.circuit_tracer.engine import Backend, CircuitTracer, Settings
from core.graph.effects import Effects
from core.graph.linear.weights import LinearWeights
from core.graph.linearised import Linearised
from core.graph.replay import Replay
from core.graph.targets import Place, Unembedding, salient_targets
from core.graph.tracing import trace
from core.graph.transcoders.opening import open_transcoders
from core.graph.transcoders.stored import StoredTranscoders
from tests.unit.engine.families import D_MODEL, FAMILIES, N_LAYERS, VOCAB_SIZE
from tests.unit.graph.folders import save_clt, save_plt

BOS = 0
PROMPT = (BOS, 5, 9, 33, 12, 5, 40, 21)
N_FEATURES = 96
K_OF_TOPK = 3

# Where transcoders read and write.
RESIDUAL = ("hook_resid_mid", "hook_mlp_out")
MLP = ("mlp.hook_in", "mlp.hook_out")
CONTRIBUTION = ("mlp.hook_in", "hook_mlp_out")
NORMALIZED = ("ln2.hook_normalized", "hook_mlp_out")


def _save_unbiased(folder: Path, **rest: Any) -> Path:
    """Without decoder biases, which are no nodes of a graph."""
    save_plt(folder, **rest)
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        save_file(tensors | {"b_dec": torch.zeros_like(tensors["b_dec"])}, file)
    return folder


_SAVERS: dict[str, Callable[..., Path]] = {
    "relu": save_plt,
    "jumprelu": lambda folder, **rest: save_plt(folder, activation="jumprelu", **rest),
    "topk": lambda folder, **rest: save_plt(folder, activation="topk", k=K_OF_TOPK, **rest),
    "unbiased": _save_unbiased,
    "skip": lambda folder, **rest: save_plt(folder, skip=True, **rest),
    "clt": save_clt,
    "clt_jumprelu": lambda folder, **rest: save_clt(folder, activation="jumprelu", **rest),
}


@dataclass(frozen=True)
class Case:
    """A family of `tests.unit.engine.families`, a kind of transcoders and where they sit, circuit-tracer's backend."""

    family: str
    kind: str
    backend: Backend
    reads: str
    writes: str

    def __str__(self) -> str:
        return f"{self.family}-{self.kind}-{self.backend}-{self.reads}"


MakeWorld = Callable[[Case], "World"]


class World:
    """One case on disk and as loaded by us."""

    def __init__(self, case: Case, root: Path) -> None:
        self.case = case
        self.model_folder = _save_model(case.family, root / case.family)
        self.transcoder_folder = _SAVERS[case.kind](
            root / f"{case.kind}-{case.reads}-{case.writes}",
            n_layers=N_LAYERS,
            d_model=D_MODEL,
            n_features=N_FEATURES,
            reads=case.reads,
            writes=case.writes,
        )

    @cached_property
    def model(self) -> EagerModel:
        return EagerModel.load(str(self.model_folder), device="cpu", dtype="float32")

    @cached_property
    def transcoders(self) -> StoredTranscoders:
        return open_transcoders(
            str(self.transcoder_folder),
            n_layers=N_LAYERS,
            d_model=D_MODEL,
            device="cpu",
            dtype=torch.float32,
            lazy_encoder=False,
            budget_bytes=2**20,
        )

    def load_into(self, tracer: CircuitTracer) -> None:
        tracer.load(self.model_folder, self.transcoder_folder, self.case.backend)

    def linearised(
        self, engine: str, ids: tuple[int, ...] = PROMPT, zeroed: int = 1
    ) -> tuple[Linearised, torch.Tensor]:
        """A prompt as an engine of ours linearises it, and the logits after it."""
        if engine == "autograd":
            traced = Autograd.trace(self.model, self.transcoders, ids, zeroed=zeroed)
            return traced, traced.logits
        frozen = trace(self.model, self.transcoders, ids, zeroed=zeroed).with_encoders(self.transcoders)
        weights = LinearWeights.of_model(self.model.module).with_skips(self.transcoders)
        return Replay(weights, frozen), frozen.logits

    def effects(self, engine: str, settings: Settings, ids: tuple[int, ...] = PROMPT, zeroed: int = 1) -> Effects:
        """A graph as an engine of ours computes it."""
        linearised, logits = self.linearised(engine, ids, zeroed)
        unembedding = Unembedding.of(self.model.module.get_output_embeddings().weight)
        targets = salient_targets(
            logits,
            unembedding,
            Place(N_LAYERS, len(ids) - 1),
            str,
            max_n_logits=settings.max_n_logits,
            desired_logit_prob=settings.desired_logit_prob,
        )
        choice = Choice(settings.max_feature_nodes, settings.update_interval * settings.batch_size)
        return attribute(linearised, targets.nodes, targets.rows, choice)


def _save_model(family: str, folder: Path) -> Path:
    """In transformers 5's words, with a rotary base that no version has as its default; `gpt2_unbiased` is one, too."""
    if folder.exists():
        return folder
    base, _, unbiased = family.partition("_")
    config: Any = FAMILIES[base].config()
    rotary = getattr(config, "rope_parameters", None) or {}
    for number, parameters in enumerate(rotary.values() if "full_attention" in rotary else [rotary] if rotary else []):
        parameters["rope_theta"] = 50.0 + 25.0 * number
    torch.manual_seed(sorted(FAMILIES).index(base))
    model: Any = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 2 else 0.1))
            if name.endswith("bias"):
                parameter.mul_(0.0 if unbiased else 1.0)
            elif parameter.ndim == 1 and not base.startswith("gemma"):
                parameter.add_(1.0)
    model.save_pretrained(folder)
    words = {"<bos>": BOS, **{f"w{number}": number for number in range(1, VOCAB_SIZE)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", pad_token="w1").save_pretrained(folder)
    return folder
