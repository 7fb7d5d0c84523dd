"""Every architecture that may be steered, compared with Hugging Face's, and one that may not."""

from pathlib import Path
from typing import Any

import pytest

from core.steerer.sites import LAYOUTS
from tests.steerer.world import LAYERS, POSITIONS, VOCABULARY, WIDTH, save_model, sizes, world


def gpt2() -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        n_layer=LAYERS,
        n_embd=WIDTH,
        n_head=4,
        n_positions=POSITIONS,
        vocab_size=VOCABULARY,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
    )


def llama_like(name: str, **changes: Any) -> Any:
    import transformers

    return getattr(transformers, name)(**(sizes() | changes))


CONFIGS: dict[str, Any] = {
    "GPT2LMHeadModel": gpt2,
    "Gemma2ForCausalLM": lambda: llama_like(
        "Gemma2Config", query_pre_attn_scalar=32, sliding_window=16, tie_word_embeddings=True
    ),
    "Gemma3ForCausalLM": lambda: llama_like("Gemma3TextConfig", query_pre_attn_scalar=32, sliding_window=16),
    "MistralForCausalLM": lambda: llama_like("MistralConfig", sliding_window=None),
    "Qwen2ForCausalLM": lambda: llama_like("Qwen2Config"),
    "Qwen3ForCausalLM": lambda: llama_like("Qwen3Config"),
}


def test_every_architecture_of_the_list_is_compared_here() -> None:
    assert {*CONFIGS, "LlamaForCausalLM"} == set(LAYOUTS)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_mixed_batch_writes_what_plain_hugging_face_with_hooks_writes(architecture: str, tmp_path: Path) -> None:
    with world(save_model(tmp_path, CONFIGS[architecture]())) as running:
        running.check(running.mixture()[::3])


def test_an_architecture_that_was_not_tested_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = save_model(tmp_path, llama_like("StableLmConfig"))
    with pytest.raises(RuntimeError, match=r"StableLm.*not tested"), world(folder):
        pass
