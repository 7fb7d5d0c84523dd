"""One forward pass of the unmodified model whose gradients are those of the frozen linear model.

    residual entering layer 0 (leaf) -> norms, attention, MLP outputs (leaves) of every layer -> final norm

The pass computes what it always computes. What it holds fixed shows in its gradients alone: attention is the family's
own eager attention given queries and keys that carry no gradient (windows, caps and sinks included), a norm passes on
the gradient of its straight form (`norms`), and what an MLP adds comes from a leaf. So nothing here names an
architecture; where the modules are is the table's matter (`core.engine.hook_points`).

Whether that made the model linear is not assumed but checked: the gradient of a linear map does not depend on where it
is taken, which automatic differentiation knows exactly. A model that fails is refused.
"""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from core.engine.attention import readable_attention
from core.engine.hook_points import HookPoint
from core.engine.model import EagerModel
from core.errors import InvalidRequest
from core.graph.norms import NormForm, freeze_norm, norms
from core.graph.transcoders.sites import READS, WRITES
from core.graph.transcoders.transcoder import ReadSite, WriteSite

_NAME = "rayscope_frozen_patterns"
_NORM_INPUT: Final = "ln2.hook_in"  # what is normalised is computed from it, so that the norm's straight form is used


@dataclass(frozen=True, slots=True, eq=False)
class FrozenPass:
    """Tensors of one pass that gradients are taken of and by. All hold the batch axis of one prompt.

    Attributes:
        embedded: Leaf: the residual entering layer 0, `[1, pos, d]`.
        reads: What each layer's transcoder reads, `[1, pos, d]`.
        writes: Leaves: what each layer's MLP wrote, `[1, pos, d]`.
        final: What the unembedding reads, `[1, pos, d]`.
        logits: Of the last position, `[vocab]`, without gradient.
    """

    embedded: Tensor
    reads: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]
    final: Tensor
    logits: Tensor


def frozen_pass(
    model: EagerModel,
    ids: Tensor,
    reads: ReadSite,
    writes: WriteSite,
    skip: Callable[[int], Tensor | None],
) -> FrozenPass:
    """Runs a prompt `[pos]` through the model.

    The model's parameters stop requiring gradients, for good: nothing here trains, and the graph would keep the inputs
    of every matrix product if they did.

    Args:
        model: The model, unmodified.
        ids: The prompt, `[pos]`.
        reads: What transcoders read.
        writes: What they replace.
        skip: A layer's skip matrix `[d, d]`, through which the layer's read reaches its write.

    Raises:
        InvalidRequest: The model has no such hook point, its attention can not be replaced, or what remains of it is
            not linear.
    """
    model.module.requires_grad_(False)
    recorder = _Recorder(len(model.hook_points.blocks), skip)
    blocks = model.hook_points.blocks
    normalized = reads == "mlp_normalized"
    handles = [module.register_forward_hook(freeze_norm) for module in norms(model.module)]
    handles.append(blocks[0].register_forward_pre_hook(recorder.embed, with_kwargs=True))
    handles.append(model.module.get_output_embeddings().register_forward_pre_hook(recorder.finish))
    try:
        for layer in range(len(blocks)):
            readable_attention(model.hook_points, layer)
            read = model.hook_points[f"blocks.{layer}.{_NORM_INPUT if normalized else READS[reads]}"]
            write = model.hook_points[f"blocks.{layer}.{WRITES[writes]}"]
            handles.append(_on_read(read, normalized, recorder.read(layer)))
            handles.append(_on_write(write, recorder.write(layer)))
        with _frozen_patterns(model.module), torch.enable_grad():
            logits = model.module(input_ids=ids[None], use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    found = recorder.result(logits[0, -1].detach())
    if any(activation.ndim < 3 for activation in (*found.reads, *found.writes)):
        raise InvalidRequest(
            f"{type(model.module).__name__} computes its MLPs on all positions of all prompts in one axis.",
            "Attribution graphs need a model whose MLPs tell prompts apart.",
        )
    _check_linear(type(model.module).__name__, found)
    return found


class _Recorder:
    """Collects the tensors of one pass and puts the leaves in."""

    def __init__(self, n_layers: int, skip: Callable[[int], Tensor | None]) -> None:
        self._skip = skip
        self._embedded: Tensor | None = None
        self._final: Tensor | None = None
        self._reads: dict[int, Tensor] = {}
        self._writes: dict[int, Tensor] = {}
        self._layers = range(n_layers)

    def embed(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._embedded = _leaf(args[0] if args else kwargs["hidden_states"])
        return ((self._embedded, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": self._embedded})

    def finish(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self._final = args[0]
        return (args[0].detach()[:, -1:],)  # no other position's logits are wanted

    def read(self, layer: int) -> Callable[[Tensor], None]:
        def keep(activation: Tensor) -> None:
            self._reads[layer] = activation

        return keep

    def write(self, layer: int) -> Callable[[Tensor], Tensor]:
        def replace(activation: Tensor) -> Tensor:
            if layer not in self._reads:
                raise InvalidRequest(
                    f"In this model, layer {layer} writes its MLP output before it forms what the transcoder reads.",
                    "Use transcoders that read the MLP's input.",
                )
            leaf = self._writes[layer] = _leaf(activation)
            matrix = self._skip(layer)
            if matrix is None:
                return leaf
            skipped = self._reads[layer] @ matrix.to(leaf).T
            return leaf + (skipped - skipped.detach())

        return replace

    def result(self, logits: Tensor) -> FrozenPass:
        if self._embedded is None or self._final is None or len(self._writes) < len(self._layers):
            raise RuntimeError("the forward pass did not go through all its layers")
        reads = tuple(self._reads[layer] for layer in self._layers)
        writes = tuple(self._writes[layer] for layer in self._layers)
        return FrozenPass(self._embedded, reads, writes, self._final, logits)


def _leaf(activation: Tensor) -> Tensor:
    return activation.detach().requires_grad_(True)


def _on_read(point: HookPoint, normalized: bool, keep: Callable[[Tensor], None]) -> Any:
    def seen(activation: Tensor) -> None:
        if normalized:
            form = NormForm.of(point.module, activation)
            if form is None:
                raise InvalidRequest(
                    f"{type(point.module).__name__} is neither an RMS norm nor a layer norm.",
                    "Use transcoders that read 'mlp.hook_in' or 'hook_resid_mid'.",
                )
            activation = form.normalized(activation)
        keep(activation)

    if point.side == "input":

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen(args[0] if args else kwargs["hidden_states"])

        return point.module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, __: Any, output: Any) -> None:
        seen(output[0] if isinstance(output, tuple) else output)

    return point.module.register_forward_hook(after)


def _on_write(point: HookPoint, replace: Callable[[Tensor], Tensor]) -> Any:
    if point.side != "output":
        raise InvalidRequest(
            f"No module of this model returns '{point.name}'.", "Use transcoders for the MLP's output."
        )

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        return (replace(output[0]), *output[1:]) if isinstance(output, tuple) else replace(output)

    return point.module.register_forward_hook(after)


@contextmanager
def _frozen_patterns(model: Any) -> Generator[None]:
    """While active, gradients pass through the values of attention and not through its pattern."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(_NAME, _attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, eager_mask)
    config = model.config.get_text_config()
    usual = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = usual


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
    eager: Any = sys.modules[type(module).__module__].eager_attention_forward
    return eager(module, query.detach(), key.detach(), value, mask, **kwargs)


def _check_linear(name: str, found: FrozenPass) -> None:
    """Refuses a pass whose gradients depend on its leaves.

    Raises:
        InvalidRequest: So it is.
    """
    targets = (*found.reads, found.final)
    leaves = (*found.writes, found.embedded)
    seeds = [torch.ones_like(target) for target in targets]
    slopes: list[Tensor | None] = list(
        torch.autograd.grad(targets, leaves, seeds, create_graph=True, allow_unused=True)
    )
    if any(slope is not None and slope.requires_grad for slope in slopes):
        raise InvalidRequest(
            f"{name} is not linear where attention patterns, scales of norms and MLP outputs are held fixed.",
            "Attribution graphs need a model whose residual stream only norms, attention and MLPs write to.",
        )
