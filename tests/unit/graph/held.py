"""A model held fixed by plain forward hooks, so that what one change does downstream can be measured.

`Held` runs the unmodified model once and keeps its attention patterns, the scales of its norms, what its MLPs wrote
and the residual entering layer 0. `run` repeats the pass with all of these put back by hand, plus a change. It knows
nothing of gradients and runs nothing of `core`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from core.graph.transcoders.transcoder import ReadSite, WriteSite

from .architectures import Architecture, gain


@dataclass(frozen=True)
class Ran:
    """What one pass came to.

    Attributes:
        reads: What each layer's transcoder reads, `[pos, d]`.
        logits: Of the last position, before any cap, less their mean.
    """

    reads: tuple[Tensor, ...]
    logits: Tensor


class Held:
    """One prompt's model, held fixed.

    Attributes:
        read: What each layer's transcoder read in the first pass, `[pos, d]`.
        wrote: What each layer's MLP wrote where the transcoder writes, `[pos, d]`.
        embedded: The residual entering layer 0, `[pos, d]`.
        base: A pass without change.
    """

    def __init__(
        self,
        model: Any,
        architecture: Architecture,
        ids: tuple[int, ...],
        reads: ReadSite,
        writes: WriteSite,
        skips: list[Tensor | None] | None = None,
    ) -> None:
        self._model, self._architecture, self._ids, self._site = model, architecture, ids, reads
        family = architecture.family
        self._blocks = list(model.get_submodule(family.blocks))
        self._norms = [block.get_submodule(name) for block in self._blocks for name in architecture.norms]
        self._norms.append(model.get_submodule(family.norm))
        writer = family.mlp if writes == "mlp_out" else family.mlp_contribution
        self._writers = [block.get_submodule(writer) for block in self._blocks]
        self._skips = skips or [None] * len(self._blocks)
        self._scales: dict[nn.Module, Tensor] = {}
        self._patterns: tuple[Tensor, ...] = ()
        self.read: dict[int, Tensor] = {}
        self.wrote: dict[int, Tensor] = {}
        self.embedded = torch.empty(0)
        self._record()
        self._base: Ran | None = None
        self.base = self._base = self.run()

    @torch.no_grad()
    def run(self, added: dict[int, Tensor] | None = None, embedded: Tensor | float = 0.0) -> Ran:
        """Repeats the pass.

        Args:
            added: Layer to `[pos, d]`, added to what its MLP wrote.
            embedded: `[pos, d]`, added to the residual entering layer 0.
        """
        reads: dict[int, Tensor] = {}
        logits: list[Tensor] = []
        with Hooks() as hooks:
            for norm in self._norms:
                hooks.after(norm, partial(self._straight, norm))
            hooks.before(self._blocks[0], lambda _: (self.embedded + embedded)[None])
            for layer, block in enumerate(self._blocks):
                self._hold_attention(hooks, layer, block)
                self._watch(hooks, layer, block, reads)
                hooks.after(self._writers[layer], partial(self._write, layer, (added or {}).get(layer, 0.0), reads))
            hooks.after(self._model.get_output_embeddings(), lambda _, output: logits.append(output[0, -1]))
            self._model(input_ids=torch.tensor([self._ids]), use_cache=False)
        return Ran(tuple(reads[layer] for layer in range(len(self._blocks))), logits[0] - logits[0].mean())

    @torch.no_grad()
    def _record(self) -> None:
        def write(layer: int, _: Tensor, output: Tensor) -> None:
            self.wrote[layer] = output[0]

        with Hooks() as hooks:
            for norm in self._norms:
                hooks.before(norm, partial(self._record_scale, norm))
            for layer, writer in enumerate(self._writers):
                hooks.after(writer, partial(write, layer))
                self._watch(hooks, layer, self._blocks[layer], self.read)
            hooks.before(self._blocks[0], lambda x: setattr(self, "embedded", x[0]))
            ran = self._model(input_ids=torch.tensor([self._ids]), use_cache=False, output_attentions=True)
        self._patterns = tuple(pattern[0] for pattern in ran.attentions)

    def _record_scale(self, norm: nn.Module, x: Tensor) -> None:
        self._scales[norm] = (self._kept(x).pow(2).mean(-1, keepdim=True) + _eps(norm)).sqrt()

    def _kept(self, x: Tensor) -> Tensor:
        return x if self._architecture.family.rms else x - x.mean(-1, keepdim=True)

    def _straight(self, norm: nn.Module, x: Tensor, _: Tensor) -> Tensor:
        bias: Any = getattr(norm, "bias", None)
        return self._kept(x) / self._scales[norm] * gain(self._architecture, norm) + (0.0 if bias is None else bias)

    def _hold_attention(self, hooks: "Hooks", layer: int, block: nn.Module) -> None:
        values: list[Tensor] = []
        architecture, pattern = self._architecture, self._patterns[layer]

        def heads(_: Tensor) -> Tensor:
            v = architecture.pick(values[0])
            v = v.repeat_interleave(pattern.shape[0] // v.shape[1], 1)
            return torch.einsum("hqk,khd->qhd", pattern, v).flatten(1)[None]

        hooks.after(block.get_submodule(architecture.values), lambda _, output: values.append(output))
        hooks.before(block.get_submodule(architecture.family.heads_out), heads)

    def _watch(self, hooks: "Hooks", layer: int, block: nn.Module, reads: dict[int, Tensor]) -> None:
        family, site = self._architecture.family, self._site
        module = block.get_submodule(family.mlp if site == "mlp_in" else self._architecture.mid)

        def keep(x: Tensor) -> None:
            reads[layer] = (self._kept(x) / self._scales[module] if site == "mlp_normalized" else x)[0]

        hooks.before(module, keep)

    def _write(self, layer: int, added: Tensor | float, reads: dict[int, Tensor], _: Tensor, __: Tensor) -> Tensor:
        wrote = self.wrote[layer] + added
        matrix = self._skips[layer]
        if matrix is not None and self._base is not None:
            wrote = wrote + (reads[layer] - self._base.reads[layer]) @ matrix.T
        return wrote[None]


class Hooks:
    """Forward hooks on plain tensors, removed at the end. What a hook returns goes on instead, unless it is None."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def before(self, module: nn.Module, change: Callable[[Tensor], Tensor | None]) -> None:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            new = change(args[0] if args else kwargs["hidden_states"])
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def after(self, module: nn.Module, change: Callable[[Tensor, Tensor], Tensor | None]) -> None:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return change(args[0], output)

        self._handles.append(module.register_forward_hook(hook))


def _eps(norm: Any) -> float:
    return norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
