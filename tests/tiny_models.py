"""Tiny random models and SAEs laid out as the real ones, so that the real loading code runs without a hub.

`build_hub` fills a Hugging Face cache folder, to which `tests/conftest.py` points the libraries. Weights are random but
seeded, and large enough in scale that features fire.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

GPT2_ID = "openai-community/gpt2"
GPT2_SAE_REPO = "jbloom/GPT2-Small-SAEs-Reformatted"
GPT2_LAYERS = 12
LLAMA_ID = "meta-llama/Llama-3.1-8B"
GEMMA2_ID = "google/gemma-2-2b"
GEMMA2_IT_ID = "google/gemma-2-2b-it"
D_MODEL = 32
D_SAE = 96
_COMMIT = "0" * 40
_ARCHITECTURE_DEFAULTS: dict[str, dict[str, Any]] = {
    "topk": {"k": 8},
    "abstopk": {"k": 8},
    "matching_pursuit": {"max_iterations": 6},
    "temporal": {"n_heads": 2, "bottleneck_factor": 4, "kval_topk": 8},
}
_TEXT = [
    "The quick brown fox jumps over the lazy dog. Hello, world! Le chat dort sur le tapis. El gato duerme. 0123456789"
] * 4


def build_hub(root: Path) -> Path:
    """A fake Hugging Face cache with GPT-2 small and its `res-jb` SAEs, and a Llama and two Gemma-2 checkpoints."""
    from transformers import Gemma2Config, GPT2Config, LlamaConfig

    hub = root / "hub"
    gpt2 = GPT2Config(
        n_layer=GPT2_LAYERS,
        n_embd=D_MODEL,
        n_head=4,
        n_positions=256,
        vocab_size=400,
        bos_token_id=0,
        eos_token_id=0,
    )
    _save_model(_snapshot(hub, GPT2_ID), gpt2, _tokenizer("<|endoftext|>", None, adds_bos=False), seed=1)
    _save_res_jb(_snapshot(hub, GPT2_SAE_REPO))
    sizes: dict[str, Any] = {
        "vocab_size": 400,
        "hidden_size": D_MODEL,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
    }
    llama = LlamaConfig(**sizes)
    _save_model(_snapshot(hub, LLAMA_ID), llama, _tokenizer("<|begin_of_text|>", "<|eot_id|>", adds_bos=True), seed=2)
    for seed, repo in ((3, GEMMA2_ID), (4, GEMMA2_IT_ID)):
        gemma = Gemma2Config(**sizes, sliding_window=8, query_pre_attn_scalar=8, attn_logit_softcapping=2.0)
        _save_model(_snapshot(hub, repo), gemma, _tokenizer("<bos>", "<eos>", adds_bos=True), seed=seed)
    return hub


@contextmanager
def offline_hub(root: Path) -> Iterator[dict[str, str]]:
    """For one test, another fake cache than the session's: in child processes and here.

    A library that is imported already has read its environment, so its constants are replaced, too.
    """
    variables = {"HF_HOME": str(root), "HF_HUB_CACHE": str(root / "hub"), "HF_HUB_OFFLINE": "1"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    library = sys.modules.get("huggingface_hub.constants")
    constants = {} if library is None else {name: getattr(library, name) for name in variables}
    for name in constants:
        setattr(library, name, True if name == "HF_HUB_OFFLINE" else variables[name])
    try:
        yield variables
    finally:
        for name, constant in constants.items():
            setattr(library, name, constant)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def save_sae_folder(
    folder: Path, source_set: str, hooks: dict[int, str], *, d_in: int = D_MODEL, seed: int = 0
) -> Path:
    """A local source set of standard SAEs: layer to hook point."""
    for layer, hook in hooks.items():
        save_sae(folder / f"{layer}-{source_set}", random_sae("standard", d_in, D_SAE, hook, seed + layer))
    return folder


def random_sae(architecture: str, d_in: int, d_sae: int, hook: str, seed: int, **config: Any) -> Any:
    """A random SAELens SAE of any architecture, on the CPU."""
    import sae_lens  # noqa: F401 - registers the architectures
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    sae_class, config_class = get_sae_class(architecture)
    config = _ARCHITECTURE_DEFAULTS.get(architecture, {}) | config
    if "transcoder" in architecture:
        config = {"d_out": d_in, "apply_b_dec_to_input": False} | config
    out = f"blocks.{hook.split('.')[1]}.hook_mlp_out" if "transcoder" in architecture else None
    metadata = SAEMetadata(model_name="tiny", hook_name=hook, hook_name_out=out, sae_lens_version="6.54.12")
    sae: Any = sae_class(config_class(d_in=d_in, d_sae=d_sae, metadata=metadata, **config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            scale = {"b_enc": 0.1, "b_dec": 0.1, "threshold": 0.05}.get(name, 1.0)
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(noise.abs() if name == "threshold" else noise)
        if architecture == "matching_pursuit":  # it diverges unless decoder rows have unit norm
            sae.W_dec.copy_(torch.nn.functional.normalize(sae.W_dec, dim=-1))
    return sae.eval()


def save_sae(folder: Path, sae: Any) -> None:
    """Writes SAELens' on-disk format."""
    sae.save_model(folder)


def _save_res_jb(snapshot: Path) -> None:
    """The layout of the published repository, whose configurations predate SAELens 6."""
    for layer in range(GPT2_LAYERS + 1):
        hook = f"blocks.{min(layer, GPT2_LAYERS - 1)}.hook_resid_{'pre' if layer < GPT2_LAYERS else 'post'}"
        folder = snapshot / hook
        folder.mkdir(parents=True)
        generator = torch.Generator().manual_seed(100 + layer)
        weights = {
            "W_enc": torch.randn(D_MODEL, D_SAE, generator=generator),
            "W_dec": torch.randn(D_SAE, D_MODEL, generator=generator),
            "b_enc": torch.randn(D_SAE, generator=generator) * 0.1,
            "b_dec": torch.randn(D_MODEL, generator=generator) * 0.1,
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


def _snapshot(hub: Path, repo: str) -> Path:
    folder = hub / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(_COMMIT)
    snapshot = folder / "snapshots" / _COMMIT
    snapshot.mkdir(parents=True)
    return snapshot


def _save_model(folder: Path, config: Any, tokenizer: Any, *, seed: int) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id, None
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(bos: str, eos: str | None, *, adds_bos: bool) -> Any:
    from transformers import PreTrainedTokenizerFast

    special = [token for token in (bos, eos) if token is not None]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_TEXT, trainer)
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos or bos)
