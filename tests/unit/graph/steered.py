"""What a model writes with features held, computed the slow way: the whole sequence read anew for every token.

Plain transformers in float64, hooks written by hand, dense transcoders, no cache. Owes nothing to `core` but the words
of the question.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from core.graph.requests import Intervention

from .architectures import ARCHITECTURES, eager_model
from .held import Hooks
from .plain_sets import PlainSet


@dataclass(frozen=True)
class Truth:
    """One steered prompt.

    Attributes:
        name: Of the architecture.
        transcoders: Whose features are held.
        prompt: Token ids.
        held: What is held.
        freeze: Whether the prompt attends as it does unsteered.
        n_silent: Leading positions where features count as inactive.
    """

    name: str
    transcoders: PlainSet
    prompt: tuple[int, ...]
    held: tuple[Intervention, ...] = ()
    freeze: bool = False
    n_silent: int = 1

    @torch.no_grad()
    def next_logits(self, ids: list[int]) -> Tensor:
        """`[vocab]` after `ids`, which begin with the prompt."""
        gains: dict[int, Tensor] = {}
        assert self.active  # read now: its own pass must not run inside of this one
        with Hooks() as hooks:
            for layer, block in enumerate(self._blocks):
                if self.freeze and self.held:
                    self._hold_attention(hooks, layer, block)
                self._watch(hooks, layer, block, partial(self._clamp, layer, gains))
                hooks.after(self._writer(block), lambda _, y, layer=layer: y + gains.pop(layer, 0.0))
            return self._model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]

    def write(self, n_tokens: int) -> tuple[list[int], list[Tensor]]:
        """Greedily: all tokens, and the probabilities `[vocab]` that followed each from the prompt's last one on."""
        ids, rows = list(self.prompt), []
        for _ in range(n_tokens):
            logits = self.next_logits(ids)
            rows.append(logits.softmax(-1))
            ids.append(int(logits.argmax()))
        return ids, [*rows, self.next_logits(ids).softmax(-1)]

    @property
    def active(self) -> list[Tensor]:
        """Unsteered activations of the prompt, `[pos, F]` by layer."""
        return self._unsteered[0]

    @property
    def _model(self) -> Any:
        return eager_model(self.name).module

    @property
    def _blocks(self) -> list[nn.Module]:
        return list(self._model.get_submodule(ARCHITECTURES[self.name].family.blocks))

    @cached_property
    def _unsteered(self) -> tuple[list[Tensor], list[Tensor]]:
        """Activations, and attention patterns `[heads, pos, pos]`."""
        reads: dict[int, Tensor] = {}
        with Hooks() as hooks, torch.no_grad():
            for layer, block in enumerate(self._blocks):
                self._watch(hooks, layer, block, partial(reads.__setitem__, layer))
            ran = self._model(input_ids=torch.tensor([self.prompt]), use_cache=False, output_attentions=True)
        return [self._dense(layer, x) for layer, x in sorted(reads.items())], [one[0] for one in ran.attentions]

    def _dense(self, layer: int, x: Tensor) -> Tensor:
        active = self.transcoders.dense(layer, x)
        active[: self.n_silent] = 0
        return active

    def _clamp(self, layer: int, gains: dict[int, Tensor], x: Tensor) -> None:
        wanted: dict[tuple[int, int], float] = {}
        for one in self.held:
            if one.layer == layer:
                value = 0.0
                if one.delta is not None:
                    value = float(self.active[layer][one.active_position, one.index]) + one.delta
                generated = range(len(self.prompt), len(x))
                for position in generated if one.position is None else (one.position,):
                    wanted[position, one.index] = value
        current = self._dense(layer, x)
        for (position, index), value in wanted.items():
            for slot, row in enumerate(self.transcoders.decoder[layer][index]):
                gain = gains.setdefault(layer + slot, torch.zeros_like(x))
                gain[position] += (value - current[position, index]) * row

    def _watch(self, hooks: Hooks, layer: int, block: nn.Module, seen: Any) -> None:
        architecture, site = ARCHITECTURES[self.name], self.transcoders.shape.reads
        name = architecture.family.mlp if site == "mlp_in" else architecture.mid
        assert name is not None
        module: Any = block.get_submodule(name)

        def keep(x: Tensor) -> None:
            if site == "mlp_normalized":
                eps = getattr(module, "variance_epsilon", None) or module.eps
                x = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
            seen(x[0])

        hooks.before(module, keep)

    def _writer(self, block: nn.Module) -> nn.Module:
        family = ARCHITECTURES[self.name].family
        name = family.mlp if self.transcoders.shape.writes == "mlp_out" else family.mlp_contribution
        return block.get_submodule(name)

    def _hold_attention(self, hooks: Hooks, layer: int, block: nn.Module) -> None:
        architecture, pattern = ARCHITECTURES[self.name], self._unsteered[1][layer]
        n_prompt = len(self.prompt)
        values: list[Tensor] = []

        def heads(x: Tensor) -> Tensor:
            v = architecture.pick(values.pop())[:n_prompt]
            v = v.repeat_interleave(pattern.shape[0] // v.shape[1], 1)
            held = x.clone()
            held[0, :n_prompt] = torch.einsum("hqk,khd->qhd", pattern, v).flatten(1)
            return held

        hooks.after(block.get_submodule(architecture.values), lambda _, output: values.append(output))
        hooks.before(block.get_submodule(architecture.family.heads_out), heads)
