"""A Llama of about 100 million parameters, made on the spot: speed depends on its shape, not on what it learned.

It takes 0.4 GB below `benchmarks/.cache` and is kept for the next run; remove it at will. It has no tokenizer, because
the engines that are compared take and give token ids.
"""

import shutil
from pathlib import Path

LLAMA = "llama-100m"
_CACHE = Path(__file__).parent / ".cache" / LLAMA
_SEED = 0


def build_llama(folder: Path = _CACHE) -> Path:
    """Makes the model's folder unless it is there; returns it."""
    if folder.exists():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=20_480,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    torch.manual_seed(_SEED)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(partial)
    partial.rename(folder)
    return folder
