"""The replay engine: rows of a graph by the explicit adjoint of a frozen prompt's linear map.

With patterns and norm scales held, a gradient goes down a layer in four products, so nothing is left for automatic
differentiation to do:

    g = 0 [T, B, d];  unembedding targets:  g[p, b] = gain * scale[p] * direction
    from the deepest layer to the first, over positions up to the last target's:
        row[b, features and errors at p] += g[p, b] . what they wrote here        only below the deepest target
        g += skip_scale * (g @ skip)                                              transcoders with skip matrices
        targets of this layer:              g[p, b] += gain * scale[p] * direction
        g += sum over heads of (mixing^T (g @ outputs)) @ values
    row[b, token at p] = g[p, b] . token

The two products with weights take most of the time, and at both ends they are cut short. Where a sweep begins, the
gradient of a row is at its target's position alone, so only that goes through the first product (`spread`). Where it
ends, tokens are taken through the second one instead of the gradient, once for all rows: `z @ values . token` is
`z . (values @ token)` (`finish`). What is left does not depend on the prompt, so one sweep takes the rows of several
prompts through it together; mixing and scoring run prompt by prompt.

Working memory of a call with B rows, in bytes, s being the size of a number and h, k the widths of all heads and of all
keys: `4 B T d + max(B T (4 d + s (d + 2 h + 2 k)), scoring) + 8 B N`; scoring takes `3 s B T d` and what `cells` says.

Deliberately not here: the order of rows, how many make a step, and what they are for (`attribution`, `scheduler`).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final, Self

import torch
from torch import Tensor

from core.graph.cells import Cells, product
from core.graph.effects import FeatureNodes
from core.graph.frozen import FrozenPrompt
from core.graph.linear.weights import LinearWeights
from core.graph.linearised import TargetRows

# Operations of the largest product that a core does in less than a millisecond.
_WORTH_SHARING: Final = 1 << 26


class Replay:
    """One prompt's linear model. A `linearised.Linearised`; calls share nothing, so they may run in any thread.

    Args:
        weights: The model's, with the skip matrices of the prompt's transcoders if they have any.
        prompt: The prompt; it is brought to the weights' device and dtype.

    Raises:
        ValueError: The prompt was frozen with skip matrices and the weights have none, or the other way round.
    """

    def __init__(self, weights: LinearWeights, prompt: FrozenPrompt) -> None:
        if (prompt.skip_scales is None) == bool(weights.skips):
            raise ValueError("the weights and the prompt disagree about skip matrices")
        self.weights = weights
        self.prompt = prompt.to(weights.device, weights.dtype)
        self.cells = tuple(Cells.of(self.prompt, layer) for layer in range(prompt.n_layers))
        self.token_values = product(self.prompt.tokens, weights.values[0].T)
        self._gains = weights.gains(prompt.reads)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The prompt, BOS included."""
        return self.prompt.token_ids

    @property
    def n_layers(self) -> int:
        """Layers of the model, L."""
        return self.prompt.n_layers

    @property
    def features(self) -> FeatureNodes:
        """The features that are sources, in node order."""
        return self.prompt.features

    def targets(self, chosen: Tensor) -> TargetRows:
        """The rows of features, by their numbers in `features`.

        Raises:
            ValueError: The prompt came without encoder rows.
        """
        if self.prompt.encoders is None:
            raise ValueError("the prompt has no encoder rows; see FrozenPrompt.with_encoders")
        chosen = chosen.to(self.prompt.device)
        directions = self.prompt.encoders.index_select(0, chosen)
        return TargetRows(self.features.layer[chosen], self.features.position[chosen], directions)

    def rows(self, targets: TargetRows) -> Tensor:
        """Effects of every source on the targets, `[B, n + (L + 1) * T]` float32; columns as in `effects.Effects`."""
        return replay_rows([(self, targets)])[0]

    def keep(self, chosen: Tensor) -> Self:
        """The same prompt with these features only, ascending numbers `[K]`."""
        return type(self)(self.weights, self.prompt.keep(chosen))

    def seeds(self, targets: TargetRows) -> Tensor:
        """What each target adds to the gradient where it reads the residual stream, `[B, d]` float32."""
        direction = targets.direction.to(self.prompt.device).float()
        layer, position = targets.layer.to(self.prompt.device), targets.position.to(self.prompt.device)
        seeds = direction * self._gains[layer] * self.prompt.read_scales[layer, position][:, None]
        below, unembedding = self.weights.centres(self.prompt.reads)
        centred = torch.where(layer == self.n_layers, unembedding, below)
        return torch.where(centred[:, None], seeds - seeds.mean(1, keepdim=True), seeds)


@torch.no_grad()
def replay_rows(work: Sequence[tuple[Replay, TargetRows]], *, together: bool | None = None) -> list[Tensor]:
    """Rows of several prompts of one model.

    A product's rounding may depend on how many rows it has. On a CPU each prompt is therefore swept by itself, and its
    rows are the same to the last bit whatever else is asked for; their products are large enough to lose nothing. On a
    GPU all are swept together.

    Args:
        work: Prompts and their targets. All have the same weights.
        together: Whether products with weights are shared between prompts; by default, unless on a CPU.

    Returns:
        For each prompt, `[B, n + (L + 1) * T]` float32; columns as in `effects.Effects`.

    Raises:
        ValueError: The prompts have different weights.
    """
    if not work:
        return []
    weights = work[0][0].weights
    if any(replay.weights is not weights for replay, _ in work):
        raise ValueError("prompts that are replayed together must share their weights")
    sweeps = [_Sweep(replay, targets) for replay, targets in work]
    asked = [sweep for sweep in sweeps if sweep.n_rows]
    if together is None:
        together = weights.device.type != "cpu"
    for group in [asked] if together and asked else [[sweep] for sweep in asked]:
        with _threads_for(weights, group):
            _run(weights, group)
    return [sweep.rows() for sweep in sweeps]


class _Sweep:
    """The rows of one prompt on their way down."""

    def __init__(self, replay: Replay, targets: TargetRows) -> None:
        self.replay = replay
        self.n_rows = len(targets)
        self._order = torch.argsort(targets.layer, stable=True)
        sorted_targets = targets[self._order]
        self._unsorted = bool((targets.layer.diff() < 0).any())
        self._layers: list[int] = sorted_targets.layer.tolist()
        self._positions = sorted_targets.position.to(replay.prompt.device)
        self._seeds = replay.seeds(sorted_targets)
        self.n_positions = int(targets.position.max()) + 1 if self.n_rows else 0
        self.deepest = self._layers[-1] if self._layers else 0
        # Columns come first, so that what one cell adds is contiguous.
        self._effects = torch.zeros(replay.prompt.n_columns, self.n_rows, device=replay.prompt.device)

    def rows(self) -> Tensor:
        """`[B, N]`, in the order that was asked for."""
        rows = self._effects.T
        return rows[torch.argsort(self._order).to(rows.device)] if self._unsorted else rows

    def start(self, g: Tensor, layer: int) -> None:
        """Adds the targets of one layer to the gradient `[T, B, d]`."""
        first, last = self._at(layer)
        if first < last:
            rows = torch.arange(first, last, device=g.device)
            g[self._positions[first:last], rows] += self._seeds[first:last]

    def score(self, g: Tensor, layer: int) -> None:
        """Adds the effects of what was written to a layer."""
        prompt = self.replay.prompt
        self.replay.cells[layer].score(g, prompt.decoders[layer], self._effects)
        self._place(g, prompt.errors[layer], len(prompt.features) + layer * prompt.n_positions)

    def skip(self, g: Tensor, layer: int) -> None:
        """Takes the gradient past the skip matrix of a layer."""
        skip, scales = self.replay.weights.skips[layer], self.replay.prompt.skip_scales
        if skip is not None and scales is not None:
            passed = product(g.flatten(0, 1).to(skip.dtype), skip).view_as(g)
            g += passed * scales[layer, : len(g), None, None]

    def mix(self, heads: Tensor, layer: int) -> Tensor:
        """What the values get of the heads' gradient: `[T * B, n_heads * head_dim]` to `[.., n_kv_heads * head_dim]`.

        Heads that share their values are summed in the same product: they follow each other as query positions do.
        """
        weights, positions = self.replay.weights, self.n_positions
        groups, width = weights.n_kv_heads, weights.head_dim
        shared = weights.n_heads // groups
        mixing = self.replay.prompt.mixing[layer, :, :positions, :positions]
        mixing = mixing.reshape(groups, shared * positions, positions)
        queries = heads.view(positions, self.n_rows, groups, shared, width).permute(2, 3, 0, 1, 4)
        queries = queries.reshape(groups, shared * positions, self.n_rows * width)
        keys = torch.bmm(mixing.transpose(1, 2), queries).view(groups, positions, self.n_rows, width)
        return keys.permute(1, 2, 0, 3).reshape(positions * self.n_rows, groups * width)

    def spread(self, layer: int) -> Tensor:
        """What `mix` gives of a gradient that holds the targets of the deepest layer and nothing else.

        Each of them is at one position, so it takes one row through the heads and one row of each pattern.
        """
        weights, positions = self.replay.weights, self.n_positions
        groups, width = weights.n_kv_heads, weights.head_dim
        first, last = self._at(layer)
        heads = (self._seeds[first:last].to(weights.dtype) @ weights.outputs[layer]).view(
            (last - first) * groups, -1, width
        )
        mixing = self.replay.prompt.mixing[layer, :, :, :positions].index_select(1, self._positions[first:last])
        mixing = mixing.permute(1, 0, 2).reshape(len(heads), -1, positions)
        keys = torch.bmm(mixing.transpose(1, 2), heads).view(last - first, groups, positions, width)
        spread = keys.new_zeros(positions, self.n_rows, groups, width)
        spread[:, first:last] = keys.permute(2, 0, 1, 3)
        return spread.view(positions * self.n_rows, groups * width)

    def finish(self, g: Tensor, mixed: Tensor) -> None:
        """Adds the effects of the tokens, on the gradient below the last product with values and through that."""
        prompt, values = self.replay.prompt, self.replay.token_values
        first = len(prompt.features) + prompt.n_layers * prompt.n_positions
        self._place(g, prompt.tokens, first)
        self._effects[first : first + len(g)] += _dot(mixed.view(*g.shape[:2], -1), values)

    def _place(self, g: Tensor, sources: Tensor, first: int) -> None:
        """Writes the effects of one source per position, `[T, d]`, from column `first` on."""
        self._effects[first : first + len(g)] = _dot(g, sources)

    def _at(self, layer: int) -> tuple[int, int]:
        """The rows whose targets are at a layer: the first and one past the last."""
        return bisect_left(self._layers, layer), bisect_right(self._layers, layer)


def _dot(g: Tensor, sources: Tensor) -> Tensor:
    """`[pos, B]` float32: `g[pos, B, k]` with one source per position, `[T, k]`."""
    return (g * sources[: len(g), None].float()).sum(2)


@contextmanager
def _threads_for(weights: LinearWeights, sweeps: Sequence[_Sweep]) -> Generator[None]:
    """One thread of a CPU where another one is not worth waking: and that is waited for, product by product."""
    size = sum(sweep.n_positions * sweep.n_rows for sweep in sweeps)
    threads = torch.get_num_threads()
    if weights.device.type != "cpu" or threads == 1 or 2 * size * weights.outputs[0].numel() > _WORTH_SHARING:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run(weights: LinearWeights, sweeps: Sequence[_Sweep]) -> None:
    """Takes all rows down from their targets to the tokens."""
    # The deepest first, so that those under way at any layer are the first part of the gradient.
    ordered = sorted(sweeps, key=lambda sweep: sweep.deepest, reverse=True)
    sizes = [sweep.n_positions * sweep.n_rows for sweep in ordered]
    flat = torch.zeros(sum(sizes), weights.d_model, device=weights.device)
    views = [
        part.view(sweep.n_positions, sweep.n_rows, -1)
        for sweep, part in zip(ordered, flat.split(sizes), strict=True)
    ]  # fmt: skip
    under_way = list(zip(ordered, views, strict=True))
    for sweep, g in under_way:
        sweep.start(g, weights.n_layers)
    for layer in reversed(range(weights.n_layers)):
        begun = [(sweep, g) for sweep, g in under_way if sweep.deepest >= layer]
        if not begun:
            continue
        for sweep, g in begun:
            if sweep.deepest > layer:
                sweep.score(g, layer)
                if weights.skips:
                    sweep.skip(g, layer)
            sweep.start(g, layer)
        deep = [sweep for sweep, _ in begun if sweep.deepest > layer]
        part, below = flat[: sum(sizes[: len(begun)])], flat[: sum(sizes[: len(deep)])]
        heads = (below.to(weights.dtype) @ weights.outputs[layer]).split(sizes[: len(deep)]) if deep else ()
        mixed = [sweep.mix(own, layer) for sweep, own in zip(deep, heads, strict=True)]
        mixed += [sweep.spread(layer) for sweep, _ in begun[len(deep) :]]
        if layer == 0:
            for (sweep, g), own in zip(begun, mixed, strict=True):
                sweep.finish(g, own)
            continue
        joined = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        if joined.dtype == part.dtype:
            part.addmm_(joined, weights.values[layer])
        else:
            part += product(joined, weights.values[layer])
