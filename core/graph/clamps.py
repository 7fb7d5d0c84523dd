"""Clamps: features of transcoders held at a value while the unmodified model runs.

    base       a feature's activation in the unsteered prompt, at its active position
    set-point  base + delta, or 0 to ablate
    current    the feature's activation in this pass, from what its transcoder reads now

At a clamped layer and position, what the MLP writes gains `(set-point - current) * decoder row`; the row of a
cross-layer feature has a slot for each layer from its own on. `current` comes from a residual stream that earlier
clamps have changed already, and all that follows is computed anew, so clamps feed each other (circuit-tracer's
"iterative patching"). A feature clamped to the value that it has changes nothing, to the last bit: base and current are
encoded in batches of the same shape. Of an encoder only the rows of clamped features are read.

At the prompt's silent positions features count as inactive: base and current are 0 there.

Deliberately not here: frozen attention, and which tokens are generated. A pass says which of its rows is steered.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from core.engine.hook_points import HookPoint, HookPoints
from core.errors import InvalidRequest
from core.graph.requests import GraphPrompt, Intervention
from core.graph.transcoders.sites import READS, WRITES
from core.graph.transcoders.transcoder import TranscoderSet


@dataclass(slots=True)
class _Wanted:
    """One layer's interventions, and the prompt positions that they concern."""

    interventions: list[Intervention] = field(default_factory=list[Intervention])

    @property
    def places(self) -> list[int]:
        held = {one.position for one in self.interventions if one.position is not None}
        return sorted(held | {one.active_position for one in self.interventions})


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """Which activations of one layer are wanted in a pass, `[n]`, out of a table of positions and features.

    Attributes:
        places: Positions `[m]`, ascending.
        features: Features `[f]`.
        position: Where each is wanted, `[n]`; all of them are among the places.
        column: Which of the features each is of, `[n]`.
        n_silent: Leading positions where activations count as 0.
    """

    places: Tensor
    features: Tensor
    position: Tensor
    column: Tensor
    n_silent: int


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """One layer's clamps in a pass.

    Attributes:
        read: Of every clamp the current activation, where it is.
        set_point: Values `[n]`.
        decoder: What a unit of each writes, `[n, w, d]`; slot j writes to layer `layer + j`.
    """

    read: _Read
    set_point: Tensor
    decoder: Tensor


class FeatureClamps:
    """The clamps of one steered text. Everything here touches the device.

    First `reading` over the unsteered prompt, then `on_prompt` over the steered one, then `on_generated` per token.

    Args:
        hook_points: The model's.
        transcoders: Whose features are held.
        interventions: What is held; of several on one feature at one position the last counts.
        prompt: The prompt.

    Raises:
        InvalidRequest: The model has no such hook point, or can not be written there.
    """

    def __init__(
        self,
        hook_points: HookPoints,
        transcoders: TranscoderSet,
        interventions: Sequence[Intervention],
        prompt: GraphPrompt,
    ) -> None:
        self._transcoders = transcoders
        self._n_silent = prompt.n_silent
        shape = transcoders.shape
        self._reads = [hook_points[f"blocks.{layer}.{READS[shape.reads]}"] for layer in range(shape.n_layers)]
        self._writes = [hook_points[f"blocks.{layer}.{WRITES[shape.writes]}"] for layer in range(shape.n_layers)]
        if any(point.side != "output" for point in self._writes):
            raise InvalidRequest("No module of this model returns what its transcoders write.")
        last = {(one.layer, one.index, one.position): one for one in interventions}
        self._wanted: dict[int, _Wanted] = {}
        for one in last.values():
            self._wanted.setdefault(one.layer, _Wanted()).interventions.append(one)
        self._prompt: dict[int, _Held] = {}
        self._generated: dict[int, _Held] = {}

    def __bool__(self) -> bool:
        return bool(self._wanted)

    @contextmanager
    def reading(self) -> Generator[None]:
        """For one pass over the unsteered prompt, `[1, pos]`: reads base activations and changes nothing."""

        def read(layer: int, x: Tensor) -> None:
            self._settle(layer, x[0])

        with ExitStack() as hooks:
            for layer in self._wanted:
                hooks.callback(_listen(self._reads[layer], _of_layer(read, layer)).remove)
            yield

    def on_prompt(self) -> AbstractContextManager[None]:
        """For one pass over the steered prompt, `[1, pos]`: clamps of the prompt hold."""
        return self._holding(self._prompt, row=0)

    def on_generated(self, row: int) -> AbstractContextManager[None]:
        """For one pass over one new token per row, `[rows, 1]`: clamps of generated tokens hold in one row."""
        return self._holding(self._generated, row)

    def _settle(self, layer: int, x: Tensor) -> None:
        """Makes clamps of a layer's interventions, by what its transcoder reads of the unsteered prompt `[pos, d]`."""
        wanted, device = self._wanted[layer], x.device
        places = torch.tensor(wanted.places, device=device)
        index = torch.tensor([one.index for one in wanted.interventions], device=device)
        active = torch.tensor([one.active_position for one in wanted.interventions], device=device)
        number = torch.arange(len(index), device=device)
        base = self._activations(layer, x, _Read(places, index, active, number, self._n_silent))
        delta = base.new_tensor([one.delta or 0.0 for one in wanted.interventions])
        ablated = torch.tensor([one.delta is None for one in wanted.interventions], device=device)
        set_point = torch.where(ablated, torch.zeros_like(base), base + delta)
        decoder = self._transcoders.decoder_rows(layer, index).to(base)
        position = torch.tensor([one.position or 0 for one in wanted.interventions], device=device)
        generated = torch.tensor([one.position is None for one in wanted.interventions], device=device)
        in_prompt = _Read(places, index, position[~generated], number[~generated], self._n_silent)
        features = index[generated]
        behind = _Read(places.new_zeros(1), features, position[generated], number[: len(features)], 0)
        for clamps, chosen, read in ((self._prompt, ~generated, in_prompt), (self._generated, generated, behind)):
            if bool(chosen.any()):
                clamps[layer] = _Held(read, set_point[chosen], decoder[chosen])

    @contextmanager
    def _holding(self, clamps: Mapping[int, _Held], row: int) -> Generator[None]:
        pending: dict[int, Tensor] = {}

        def read(layer: int, x: Tensor) -> None:
            held = clamps[layer]
            current = self._activations(layer, x[row], held.read)
            gains = (held.set_point - current)[:, None, None] * held.decoder
            for slot in range(gains.shape[1]):
                if layer + slot not in pending:
                    pending[layer + slot] = gains.new_zeros(x.shape[1], gains.shape[2])
                pending[layer + slot].index_add_(0, held.read.position, gains[:, slot])

        def write(layer: int, y: Tensor) -> Tensor:
            changed = y.clone()
            changed[row] = (y[row].to(pending[layer].dtype) + pending[layer]).to(y.dtype)
            return changed

        written = {layer + slot for layer, held in clamps.items() for slot in range(held.decoder.shape[1])}
        with ExitStack() as hooks:
            for layer in clamps:
                hooks.callback(_listen(self._reads[layer], _of_layer(read, layer)).remove)
            for layer in written:
                hooks.callback(_rewrite(self._writes[layer], _of_layer(write, layer)).remove)
            yield

    def _activations(self, layer: int, x: Tensor, read: _Read) -> Tensor:
        """Activations `[n]` at inputs `[pos, d]`, in float32 at least: a clamp is a difference of two of them."""
        values = self._transcoders.activations(layer, x[read.places], read.features)
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        found = values[torch.searchsorted(read.places, read.position), read.column]
        return torch.where(read.position >= read.n_silent, found, torch.zeros_like(found))


def _of_layer(call: Callable[[int, Tensor], Any], layer: int) -> Callable[[Tensor], Any]:
    return lambda x: call(layer, x)


def _listen(point: HookPoint, seen: Callable[[Tensor], None]) -> Any:
    if point.side == "input":

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen(point.read(args[0] if args else kwargs["hidden_states"]))

        return point.module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, __: Any, output: Any) -> None:
        seen(point.read(output[0] if isinstance(output, tuple) else output))

    return point.module.register_forward_hook(after)


def _rewrite(point: HookPoint, changed: Callable[[Tensor], Tensor]) -> Any:
    def after(_: nn.Module, __: Any, output: Any) -> Any:
        return (changed(output[0]), *output[1:]) if isinstance(output, tuple) else changed(output)

    return point.module.register_forward_hook(after)
