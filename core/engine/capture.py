"""One forward pass over several prompts that stops as soon as everything asked for has been read.

    ids [batch, pos], right padded --> plain Hugging Face forward (sdpa) --> {hook point: [batch, pos, d]}

The pass ends with the module that emits the last activation wanted: deeper layers, the final norm and the unembedding
do not run. Prompts are padded on the right and no mask is passed. In a causal model a position reads only what is on
its left, so padding can not reach a prompt's own positions, and `sdpa` may take its causal fast path.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from core.engine.attention import AttentionReading, recording_attention
from core.engine.hook_points import HookPoint, HookPoints


class _Stop(Exception):
    """Everything has been read; the rest of the forward pass is not needed."""


@dataclass(frozen=True, slots=True)
class Capture:
    """What one forward pass read.

    Attributes:
        activations: Hook point name to `[batch, pos, d]`, in the model's dtype.
        attention: Layer to the attention read there.
    """

    activations: dict[str, torch.Tensor] = field(default_factory=dict)
    attention: dict[int, AttentionReading] = field(default_factory=dict)


def pad_right(prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Stacks token ids into `[batch, longest]`. What fills a row's end is never read; token 0 exists everywhere."""
    longest = max(len(ids) for ids in prompts)
    return torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in prompts])


@torch.inference_mode()
def capture(
    model: nn.Module,
    hook_points: HookPoints,
    ids: torch.Tensor,
    names: Collection[str],
    attention_layers: Collection[int] = (),
) -> Capture:
    """Runs `model` over `ids` `[batch, pos]` and returns the activations named.

    Raises:
        InvalidRequest: The model has no such hook point.
        RuntimeError: The model ran to its end without passing through a hook point.
    """
    result = Capture()
    points = [hook_points[name] for name in sorted(set(names))]
    wanted = len(points) + len(set(attention_layers))
    if not wanted:
        return result

    def done() -> None:
        if len(result.activations) + len(result.attention) == wanted:
            raise _Stop

    handles = [_listen(point, result.activations, done) for point in points]
    try:
        with recording_attention(model, hook_points, attention_layers, result.attention, done):
            model(input_ids=ids, use_cache=False)
    except _Stop:
        return result
    finally:
        for handle in handles:
            handle.remove()
    missing = set(names) - set(result.activations) | {f"attention {layer}" for layer in attention_layers}
    raise RuntimeError(f"the forward pass never reached {sorted(missing)}")


def _listen(point: HookPoint, into: dict[str, torch.Tensor], done: Callable[[], None]) -> Any:
    def keep(activation: torch.Tensor) -> None:
        into[point.name] = point.read(activation)
        done()

    if point.side == "input":

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(args[0] if args else kwargs["hidden_states"])

        return point.module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, __: Any, output: Any) -> None:
        keep(output[0] if isinstance(output, tuple) else output)

    return point.module.register_forward_hook(after)
