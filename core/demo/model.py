"""The demo language model: a 4-layer Llama, its training loop, and the batching both share.

Documents are never packed together: a row is `<bos>` + one document + `<eos>`, and rows of similar length share a
batch. The model therefore always sees `<bos>` at position 0 and nowhere else, exactly as every prompt of a user does,
and no attention mask is needed (padding is on the right of a causal model).

Hidden matrices are trained with Muon, embeddings and norms with AdamW; on two cores this is what makes a fluent model
in a quarter of an hour. No checkpoints, no resume: a run is short and deterministic given the seed and the thread
count.
"""

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from core.demo.tokenizer import BOS_ID, CONTEXT_TOKENS, END_ID, EOS_ID, PAD_ID

LAYERS = 4
WIDTH = 128
HEADS = 4
_BATCH_TOKENS = 2048
_IGNORED = -100

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is shown beside the bar)."""


def build_model(vocabulary: int, seed: int) -> LlamaForCausalLM:
    """An untrained model; the same weights for the same seed."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=WIDTH // HEADS,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        initializer_range=0.02,
        rms_norm_eps=1e-6,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS_ID,
        eos_token_id=[EOS_ID, END_ID],
        pad_token_id=PAD_ID,
        max_new_tokens=64,
        do_sample=False,
    )
    return model


def encode_documents(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token rows, each `<bos>` + document + `<eos>`."""
    rows: list[list[int]] = tokenizer(list(texts))["input_ids"]  # pyright: ignore[reportAssignmentType]
    return [[*row, EOS_ID][:CONTEXT_TOKENS] for row in rows]


def pad_rows(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """Rows as one `[batch, pos]` tensor, filled on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])


def batches(rows: Sequence[list[int]], rng: random.Random, tokens: int = _BATCH_TOKENS) -> list[list[int]]:
    """Indices of rows grouped by length so that a batch holds about `tokens` tokens and hardly any padding."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), rng.random()))
    groups: list[list[int]] = []
    group: list[int] = []
    for i in order:
        if group and (len(group) + 1) * len(rows[i]) > tokens:
            groups.append(group)
            group = []
        group.append(i)
    groups.append(group)
    rng.shuffle(groups)
    return groups


def train_model(
    model: LlamaForCausalLM,
    rows: Sequence[list[int]],
    epochs: int,
    seed: int,
    progress: Progress,
) -> float:
    """Train in place.

    Args:
        model: The untrained model.
        rows: Token rows of the corpus.
        epochs: How often every row is seen.
        seed: Order of the batches.
        progress: Told after every step.

    Returns:
        The mean training loss over the last 100 steps, in nats per token.
    """
    rng = random.Random(seed)
    schedule = [group for _ in range(epochs) for group in batches(rows, rng)]
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = (
        torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.1),
        torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0),
    )
    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, _learning_rate(len(schedule))) for o in optimizers]
    # The fused attention's backward is four times slower than the plain one on rows this short.
    model.set_attn_implementation("eager")
    model.train()
    recent: list[float] = []
    for step, group in enumerate(schedule, start=1):
        chosen = [rows[i] for i in group]
        inputs = pad_rows(chosen, PAD_ID)
        labels = pad_rows([[*row[1:], _IGNORED] for row in chosen], _IGNORED)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1),
            labels.flatten(),
            ignore_index=_IGNORED,
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
        recent = [*recent[-99:], loss.item()]
        progress(step, len(schedule), f"loss {sum(recent) / len(recent):.3f}")
    model.eval()
    model.set_attn_implementation("sdpa")
    return sum(recent) / len(recent)


@torch.no_grad()
def rescale_residual(model: LlamaForCausalLM, factor: float) -> None:
    """Scale the residual stream without changing what the model computes.

    Everything that writes to the stream is multiplied, the norms' epsilon with it, and the final norm's weight divided
    (the unembedding is the embedding). Training leaves a stream of norm 200 to 500; scaled down, steering strengths are
    numbers of the usual size.

    Args:
        model: Changed in place; its embedding must be tied.
        factor: What the stream is multiplied by; with a power of two every logit stays the same to the last bit.
    """
    model.model.embed_tokens.weight.mul_(factor)
    for block in cast("Any", model.model.layers):
        block.self_attn.o_proj.weight.mul_(factor)
        block.mlp.down_proj.weight.mul_(factor)
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.variance_epsilon *= factor**2
    final = cast("Any", model.model.norm)
    final.weight.div_(factor)
    final.variance_epsilon *= factor**2
    model.config.rms_norm_eps *= factor**2


def _learning_rate(steps: int, warm_up: int = 100) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) + 1e-3

    return factor


def load_model(folder: Path) -> LlamaForCausalLM:
    """The trained model in float32, ready for inference."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
