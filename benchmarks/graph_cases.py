"""What is attributed in `make bench-graphs`: three sizes of model and transcoders, and prompts for each.

The demo is real. The two others are random Llamas with random ReLU transcoders, made on the spot: their cost depends on
shapes and on how many features are active, and that is set, by the encoders' biases, to what sparse transcoders have.
They take 2 GB below `benchmarks/.cache` and are kept for the next run; remove them at will.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from core.demo import ARTEFACTS

DEMO = "demo"
BATCH_SIZE = 48
"""Rows of one backward pass, for every engine: what the one known client of such servers sends."""

_CACHE = Path(__file__).parent / ".cache" / "graphs"
_FIRST_PLAIN_TOKEN = 7  # those before are special
_BOS = 1
_SEED = 0


@dataclass(frozen=True, slots=True)
class Size:
    """One model with its transcoders.

    Attributes:
        name: In tables.
        n_layers: L.
        d_model: Width of the residual stream.
        n_heads: Attention heads; a fourth as many carry keys and values.
        n_features: Features of each layer.
        n_active: Features active at each layer and position, on average.
        n_tokens: Tokens of a prompt, BOS included.
        kept: Features that a graph of limited size has, K.
    """

    name: str
    n_layers: int
    d_model: int
    n_heads: int
    n_features: int
    n_active: int
    n_tokens: int
    kept: int

    @property
    def model(self) -> Path:
        """The model's folder."""
        return ARTEFACTS / "model" if self.name == DEMO else _CACHE / self.name / "model"

    @property
    def transcoders(self) -> Path:
        """The transcoder set's folder."""
        return ARTEFACTS / "plt-demo" if self.name == DEMO else _CACHE / self.name / "transcoders"

    def prompt(self, number: int) -> tuple[int, ...]:
        """Token ids; every number has a prompt of its own."""
        vocabulary = json.loads((self.model / "config.json").read_text())["vocab_size"]
        drawn = np.random.default_rng([_SEED, number]).integers(_FIRST_PLAIN_TOKEN, vocabulary, self.n_tokens - 1)
        return (_BOS, *drawn.tolist())


SIZES: Mapping[str, Size] = {
    size.name: size
    for size in (
        Size(DEMO, 4, 128, 4, 1024, 24, 32, 1000),
        Size("L=8 d=128 F=1024", 8, 128, 4, 1024, 32, 16, 1000),
        Size("L=12 d=768 F=24576", 12, 768, 12, 24576, 32, 24, 3000),
    )
}


def build(size: Size) -> None:
    """Makes the folders of a size unless they are there."""
    if size.model.exists() and size.transcoders.exists():
        return
    root = size.model.parent
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _build_model(size, partial / "model")
    _build_transcoders(size, partial / "transcoders")
    shutil.rmtree(root, ignore_errors=True)
    partial.rename(root)


def _build_model(size: Size, folder: Path) -> None:
    """A Llama whose matrices keep the scale of what goes through them, with the demo's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    tokenizer = AutoTokenizer.from_pretrained(ARTEFACTS / "model")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.d_model,
        intermediate_size=4 * size.d_model,
        num_hidden_layers=size.n_layers,
        num_attention_heads=size.n_heads,
        num_key_value_heads=size.n_heads // 4,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
        initializer_range=size.d_model**-0.5,
    )
    torch.manual_seed(_SEED)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _build_transcoders(size: Size, folder: Path) -> None:
    """Normalised inputs have unit spread, so each encoder row's pre-activation is a standard normal plus its bias."""
    import torch
    import yaml
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    bias = NormalDist().inv_cdf(size.n_active / size.n_features)
    generator = torch.Generator().manual_seed(_SEED)
    shape, scale = (size.n_features, size.d_model), size.d_model**-0.5
    for layer in range(size.n_layers):
        tensors = {
            "W_enc": scale * torch.randn(shape, generator=generator),
            "W_dec": scale * torch.randn(shape, generator=generator),
            "b_enc": torch.full(shape[:1], bias),
            "b_dec": torch.zeros(size.d_model),
        }
        save_file(tensors, folder / f"layer_{layer}.safetensors")
    description = {
        "model_kind": "transcoder_set",
        "scan": size.name,
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "mlp.hook_out",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
