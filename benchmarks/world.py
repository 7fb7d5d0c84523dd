"""A model and SAEs of GPT-2-small size, made on the spot: speed depends on their shapes, not on what they learned.

    weights, 12 SAEs of width 24,576, a tokenizer of 50,257 tokens --> a Hugging Face cache under the published ids

Every peer then loads them through its own usual code. The folder takes 2.3 GB below `benchmarks/.cache` and is kept for
the next run; remove it at will. SAEs are scaled so that about 1 % of the features fire on a token, because the length
of an answer in JSON depends on it.
"""

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.workload import D_SAE, LAYERS, make_prompts

D_MODEL = 768
VOCABULARY = 50_257
_REPO = "openai-community/gpt2"
_ALIAS = "gpt2"
_SAE_REPO = "jbloom/GPT2-Small-SAEs-Reformatted"
_COMMIT = "0" * 40
_CACHE = Path(__file__).parent / ".cache" / "world"
_BOS = "<|endoftext|>"
_FIRING_THRESHOLD = 2.3
_WORDS = 60_000
_PROMPT_WORDS = 4_000


def build_world(folder: Path = _CACHE) -> Path:
    """Makes the cache folder unless it is there; returns it."""
    if not folder.exists():
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        words = _words()
        tokenizer = _tokenizer(words)
        hub = partial / "hub"
        model = _save_model(_snapshot(hub, _REPO), tokenizer)
        (hub / _folder(_ALIAS)).symlink_to(_folder(_REPO))
        _save_saes(_snapshot(hub, _SAE_REPO), _residual_norms(model))
        prompts = make_prompts(tokenizer, words[:_PROMPT_WORDS])
        (partial / "prompts.json").write_text(json.dumps(prompts))
        partial.rename(folder)
    return folder


def read_prompts(folder: Path = _CACHE) -> list[str]:
    """The prompts that go with the tokenizer."""
    return json.loads((folder / "prompts.json").read_text())


def hub_variables(folder: Path = _CACHE) -> dict[str, str]:
    """The environment in which Hugging Face libraries find the world and look nowhere else."""
    return {"HF_HOME": str(folder), "HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}


@contextmanager
def offline_hub(folder: Path = _CACHE) -> Iterator[None]:
    """Sets that environment for this process. Hugging Face libraries read it when they are first imported."""
    before = {name: os.environ.get(name) for name in hub_variables(folder)}
    os.environ.update(hub_variables(folder))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _folder(repo: str) -> str:
    return f"models--{repo.replace('/', '--')}"


def _snapshot(hub: Path, repo: str) -> Path:
    folder = hub / _folder(repo)
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(_COMMIT)
    snapshot = folder / "snapshots" / _COMMIT
    snapshot.mkdir(parents=True)
    return snapshot


def _words() -> list[str]:
    """Made-up words, different enough from each other to fill a vocabulary of GPT-2's size."""
    draw = random.Random(1)
    onsets = ["b", "br", "c", "ch", "d", "f", "g", "gl", "h", "l", "m", "n", "p", "pr", "r", "s", "st", "t", "tr", "v"]
    vowels = ["a", "e", "i", "o", "u", "ai", "ea", "ou"]
    ends = ["", "", "n", "r", "s", "t", "l", "ck", "ng"]
    found: dict[str, None] = {}
    while len(found) < _WORDS:
        syllables = (
            draw.choice(onsets) + draw.choice(vowels) + draw.choice(ends) for _ in range(draw.choice((1, 2, 2, 3)))
        )
        found["".join(syllables)] = None
    return list(found)


def _tokenizer(words: list[str]) -> Any:
    """A byte-level BPE tokenizer as GPT-2's: the same vocabulary size, and it writes no BOS by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[_BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((" " + word for word in words), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=_BOS, eos_token=_BOS)


def _save_model(folder: Path, tokenizer: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config

    bos = tokenizer.bos_token_id
    config = GPT2Config(vocab_size=VOCABULARY, n_ctx=1024, bos_token_id=bos, eos_token_id=bos)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def _residual_norms(model: Any) -> list[float]:
    """Mean norm of the residual stream before each layer, on random tokens."""
    import torch

    with torch.inference_mode():
        ids = torch.randint(VOCABULARY, (4, 32), generator=torch.Generator().manual_seed(2))
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    return [float(state.norm(dim=-1).mean()) for state in states[:LAYERS]]


def _save_saes(snapshot: Path, norms: list[float]) -> None:
    """The layout of the published repository; configurations as they were before SAELens 6."""
    import torch
    from safetensors.torch import save_file

    for layer, norm in enumerate(norms):
        hook = f"blocks.{layer}.hook_resid_pre"
        folder = snapshot / hook
        folder.mkdir()
        generator = torch.Generator().manual_seed(100 + layer)
        # A random direction of length sqrt(d) / |x| makes every pre-activation of unit variance.
        directions = torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL, generator=generator), dim=-1)
        weights = {
            "W_enc": directions.T.contiguous() * (D_MODEL**0.5 / norm),
            "W_dec": directions,
            "b_enc": torch.randn(D_SAE, generator=generator) * 0.1 - _FIRING_THRESHOLD,
            "b_dec": torch.randn(D_MODEL, generator=generator) * (0.1 * norm / D_MODEL**0.5),
        }
        save_file(weights, folder / "sae_weights.safetensors")
        save_file({"sparsity": torch.zeros(D_SAE)}, folder / "sparsity.safetensors")
        config = {
            "model_name": "gpt2-small",
            "hook_point": hook,
            "hook_point_layer": layer,
            "d_in": D_MODEL,
            "d_sae": D_SAE,
            "dtype": "torch.float32",
            "device": "cpu",
            "activation_fn_str": "relu",
            "context_size": 128,
            "normalize_activations": "none",
            "prepend_bos": True,
        }
        (folder / "cfg.json").write_text(json.dumps(config))
