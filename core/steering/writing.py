"""Steering in a plain Hugging Face forward pass: hooks that change activations, row by row of a batch.

Rows of one batch are steered differently or not at all, so the operators of all rows at a hook point are stacked, and
one hook applies the first of every row together, then the second of those that have two, and so on. Rows that are not
steered there, and positions that are spared, keep exactly the bits that they had.

A condition reads its feature where the SAE reads it, in the same pass, before anything is written at that hook point.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from core.engine.hook_points import HookPoint, HookPoints
from core.engine.model import EagerModel
from core.errors import InvalidRequest
from core.saes.encoder import LoadedSae
from core.steering.operators import Intervention, change
from core.steering.specification import HookPlace, parse_hook

_Key = int | HookPlace


@dataclass(frozen=True, slots=True, eq=False)
class FeatureIsActive:
    """A condition whose SAE is in memory.

    Attributes:
        sae: The SAE.
        index: The feature.
        above: Positions where it is more active than this are steered.
    """

    sae: LoadedSae
    index: int
    above: float

    @property
    def place(self) -> HookPlace:
        """Where the feature is read."""
        return parse_hook(self.sae.hook_name)

    def holds(self, activations: torch.Tensor) -> torch.Tensor:
        """Whether it holds at each position, `[pos]`, of activations `[pos, d]`."""
        return self.sae.encode_columns(activations, [self.index])[:, 0] > self.above


@dataclass(frozen=True, slots=True, eq=False)
class RowSteering:
    """What is done to one row of a batch."""

    interventions: tuple[Intervention, ...]
    condition: FeatureIsActive | None = None

    def check(self) -> None:
        """Refuses a condition that can not be known when the first writing happens.

        Raises:
            InvalidRequest: It is read after something is written, or needs more than one position.
        """
        if self.condition is None:
            return
        if self.condition.sae.sequential:
            raise InvalidRequest("Features of temporal SAEs can not be conditions", "Name a feature of another source.")
        if any(self.condition.place.depth > one.place.depth for one in self.interventions):
            raise InvalidRequest(
                f"The condition reads {self.condition.place.name}, which comes after a hook point that is steered",
                "Choose a condition at the same layer or an earlier one.",
            )


@dataclass(frozen=True, slots=True)
class _Level:
    """The n-th operator of the first `rows` rows of a `_Site`, stacked."""

    rows: int
    read: torch.Tensor
    write: torch.Tensor
    coefficients: torch.Tensor


@dataclass(slots=True)
class _Site:
    """All operators at one hook point; rows with more operators come first, so that every level is a prefix."""

    rows: list[int]
    levels: list[_Level] = field(default_factory=list)

    def write(self, x: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
        """Applies them to `[batch, pos, d]` where `active` `[batch, pos]`; computed in float32."""
        wide = x[self.rows].float()
        where = active[self.rows].unsqueeze(-1)
        for level in self.levels:
            part = wide[: level.rows]
            changed = part + change(part, level.read, level.write, level.coefficients)
            wide[: level.rows] = torch.where(where[: level.rows], changed, part)
        result = x.clone()
        result[self.rows] = wide.to(x.dtype)
        return result


class SteeringHooks:
    """The steering of one batch; stays valid while its rows stay where they are.

    Args:
        hook_points: The model's.
        rows: Row of the batch to what is done to it.
        device: Where the model is.

    Raises:
        InvalidRequest: The model has no such hook point.
    """

    def __init__(self, hook_points: HookPoints, rows: Mapping[int, RowSteering], device: torch.device) -> None:
        self._hook_points = hook_points
        self._conditions = [(row, steering.condition) for row, steering in rows.items() if steering.condition]
        operators: dict[_Key, dict[int, list[Intervention]]] = {}
        for row, steering in rows.items():
            for one in steering.interventions:
                operators.setdefault(_key(one.place), {}).setdefault(row, []).append(one)
        self._sites = {key: _stack(by_row, device) for key, by_row in operators.items()}

    @contextmanager
    def attached(self, active: torch.Tensor) -> Generator[None]:
        """For the time of one forward pass over `[batch, pos]`, steers where `active` `[batch, pos]` says so."""
        active = active.clone()
        handles: list[Any] = []
        try:
            # Hooks run in the order of their registration: conditions first.
            for row, condition in self._conditions:
                handles.append(_hook(self._hook_points, _key(condition.place), _reading(row, condition, active)))
            for key, site in self._sites.items():
                handles.append(_hook(self._hook_points, key, lambda x, site=site: site.write(x, active)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def check_places(model: EagerModel, interventions: Sequence[Intervention]) -> None:
    """Refuses what would fail on the device.

    Raises:
        InvalidRequest: The model has no such layer or module, or its activation there has another width.
    """
    for one in interventions:
        name, given = one.place.name, one.operator.write.shape[0]
        _ = model.hook_points[name]
        width = model.shape.d_heads if one.place.point == "attn.hook_z" else model.shape.d_model
        if given != width:
            raise InvalidRequest(
                f"The steering vector has {given} numbers; the activation at {name} has {width}.",
                f"Send {width} numbers, or name the hook point that the vector was made for.",
            )


def _key(place: HookPlace) -> _Key:
    return place if place.site is None else place.site


def _stack(by_row: Mapping[int, Sequence[Intervention]], device: torch.device) -> _Site:
    rows = sorted(by_row, key=lambda row: -len(by_row[row]))
    site = _Site(rows)
    for level in range(len(by_row[rows[0]])):
        operators = [by_row[row][level].operator for row in rows if len(by_row[row]) > level]

        def stacked(arrays: list[Any]) -> torch.Tensor:
            return torch.from_numpy(np.stack(arrays)).unsqueeze(1).to(device)

        site.levels.append(
            _Level(
                len(operators),
                stacked([operator.read for operator in operators]),
                stacked([operator.write for operator in operators]),
                stacked([operator.coefficients for operator in operators]),
            )
        )
    return site


def _reading(row: int, condition: FeatureIsActive, active: torch.Tensor) -> Callable[[torch.Tensor], None]:
    def read(x: torch.Tensor) -> None:
        active[row] &= condition.holds(x[row])

    return read


def _hook(hook_points: HookPoints, key: _Key, change_to: Callable[[torch.Tensor], torch.Tensor | None]) -> Any:
    """Calls `change_to` with `[batch, pos, d]` in each forward pass; what it returns takes the activation's place."""
    module, side = _module(hook_points, key)

    def replaced(x: torch.Tensor) -> torch.Tensor | None:
        result = change_to(x if x.ndim == 3 else x.flatten(2))
        return None if result is None else result.view_as(x)

    if side == "input":

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = replaced(args[0] if args else kwargs["hidden_states"])
            if result is None:
                return None
            return ((result, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": result})

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        result = replaced(output[0] if isinstance(output, tuple) else output)
        if result is None:
            return None
        return (result, *output[1:]) if isinstance(output, tuple) else result

    return module.register_forward_hook(after)


def _module(hook_points: HookPoints, key: _Key) -> tuple[nn.Module, str]:
    if isinstance(key, int):
        return (hook_points.blocks[0], "input") if key == 0 else (hook_points.blocks[key - 1], "output")
    point: HookPoint = hook_points[key.name]
    return point.module, point.side
