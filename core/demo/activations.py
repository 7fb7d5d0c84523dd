"""What the dictionaries are trained and measured on: activations of the model on documents, by hook point.

The model is run as plain `transformers`, one forward per batch of equally long documents, with forward hooks at four
sites of every layer. Names are TransformerLens names. Rows are tokens: padding is dropped, and so is position 0,
because the residual stream at `<bos>` is one constant vector of a much larger norm that would dominate every mean and
every loss.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from core.demo.model import LAYERS, pad_rows
from core.demo.tokenizer import PAD_ID

Site = Literal["resid_post", "z", "mlp_in", "mlp_out"]

HOOK_NAMES: dict[Site, str] = {
    "resid_post": "blocks.{layer}.hook_resid_post",
    "z": "blocks.{layer}.attn.hook_z",
    "mlp_in": "blocks.{layer}.mlp.hook_in",
    "mlp_out": "blocks.{layer}.mlp.hook_out",
}


def _module(model: LlamaForCausalLM, layer: int, site: Site) -> tuple[nn.Module, bool]:
    """The module at a site, and whether the site is its input."""
    block = cast("Any", model.model.layers[layer])
    if site == "resid_post":
        return block, False
    if site == "z":
        return block.self_attn.o_proj, True
    return block.mlp, site == "mlp_in"


@contextmanager
def recorded(
    model: LlamaForCausalLM,
    sites: Sequence[Site],
) -> Generator[dict[tuple[Site, int], Tensor]]:
    """While open, every forward leaves its activations in the yielded dict.

    Yields:
        `(site, layer)` to the activations of the latest forward, `[batch, pos, d]`.
    """
    kept: dict[tuple[Site, int], Tensor] = {}
    handles: list[Any] = []
    for layer in range(LAYERS):
        for site in sites:
            module, is_input = _module(model, layer, site)
            handles.append(module.register_forward_hook(_recorder(kept, site, layer, is_input)))
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _recorder(kept: dict[tuple[Site, int], Tensor], site: Site, layer: int, is_input: bool) -> Any:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        seen = inputs[0] if is_input else output
        kept[site, layer] = (seen[0] if isinstance(seen, tuple) else seen).detach()

    return hook


@dataclass(frozen=True, slots=True)
class Activations:
    """Activations of many tokens at the chosen sites.

    Attributes:
        at: `(site, layer)` to `[token, d]`.
        row: `[token]`, index of the document of each token.
        position: `[token]`, its position in the document; never 0.
    """

    at: dict[tuple[Site, int], Tensor]
    row: Tensor
    position: Tensor


@torch.no_grad()
def collect(model: LlamaForCausalLM, rows: Sequence[list[int]], sites: Sequence[Site]) -> Activations:
    """Run the model over token rows and keep every token but `<bos>`.

    Args:
        model: The model, in evaluation mode.
        rows: Token rows that begin with `<bos>`.
        sites: What to keep, for every layer.

    Returns:
        Tokens in the order of `rows` sorted by length; `row` leads back to the original index.
    """
    total = sum(len(row) - 1 for row in rows)
    found: dict[tuple[Site, int], Tensor] = {}
    row_of, position_of = torch.empty(total, dtype=torch.long), torch.empty(total, dtype=torch.long)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    at = 0
    with recorded(model, sites) as kept:
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            inputs = pad_rows([rows[i] for i in chosen], PAD_ID)
            model.model(input_ids=inputs, use_cache=False)
            lengths = torch.tensor([len(rows[i]) for i in chosen])
            real = torch.arange(inputs.shape[1]) < lengths[:, None]
            real[:, 0] = False
            n = int(real.sum())
            for key, value in kept.items():
                if key not in found:
                    found[key] = torch.empty(total, value.shape[-1])
                found[key][at : at + n] = value[real]
            where = real.nonzero()
            row_of[at : at + n] = torch.tensor(chosen)[where[:, 0]]
            position_of[at : at + n] = where[:, 1]
            at += n
    return Activations(found, row_of, position_of)


def explained_variance(target: Tensor, approximation: Tensor) -> float:
    """`1 - |x - y|^2 / |x - mean(x)|^2` over tokens, both `[token, d]`."""
    residual = (target - approximation).pow(2).sum()
    return 1 - (residual / (target - target.mean(0)).pow(2).sum()).item()
