"""What a request may steer with, checked against the model before any replica hears of it.

One set of checks for every route that steers. What a request names becomes a `Steering`; `checked_steering` refuses one
that could not be carried out: sources and features that are not served, hook points that the model does not have,
directions of another width, numbers that are not finite, directions without a length where one is needed.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from core.errors import InvalidRequest
from core.exchange.served import ServedModel, check_feature
from core.steering.directions import written_at
from core.steering.operators import Operator
from core.steering.specification import (
    Condition,
    FeatureDirection,
    Floats,
    HookPlace,
    Method,
    Push,
    Steering,
    VectorDirection,
    parse_hook,
)

MOST_PUSHES: Final = 64


def vector_direction(hook: str, numbers: Sequence[float]) -> VectorDirection:
    """A caller's own direction.

    Raises:
        InvalidRequest: Steering can not write the hook point.
    """
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinity, which is refused by name
        return VectorDirection(parse_hook(hook), np.asarray(numbers, dtype=np.float32))


def checked_steering(steering: Steering, model: ServedModel) -> Steering:
    """Returns the steering if the model can be steered so.

    Raises:
        NotFound: A source is not served.
        InvalidRequest: There is nothing to steer with, or something can not be used; the message says what.
    """
    if not steering.pushes:
        raise InvalidRequest(
            "Steering needs at least one feature or vector", "Name a feature by source and index, or send a vector."
        )
    if len(steering.pushes) > MOST_PUSHES:
        raise InvalidRequest(
            f"The request steers along {len(steering.pushes)} directions, the most are {MOST_PUSHES}",
            "Add up the directions of one hook point yourself.",
        )
    if steering.method is not Method.PROJECTION_CAP and any(push.at_least is not None for push in steering.pushes):
        raise InvalidRequest(f"atLeast is the lower bound of PROJECTION_CAP; {steering.method} has none")
    places = [_checked_place(push, steering, model) for push in steering.pushes]
    if steering.condition is not None:
        _check_condition(steering.condition, places, model)
    return steering


def _checked_place(push: Push, steering: Steering, model: ServedModel) -> HookPlace:
    """Where a push is written, once its operator is known to exist."""
    direction = push.direction
    if isinstance(direction, FeatureDirection):
        source = model.description.steerable_source(direction.source)
        check_feature(source, direction.index)
        place = written_at(source)
        vector: Floats = np.ones(1, dtype=np.float32)  # the real row stays with the replica
    else:
        place, vector = direction.hook, direction.vector
        _check_width(vector, place, model)
    model.description.check_layer(place.layer)
    Operator.of(steering.method, vector, push.coefficient, normalize=steering.normalize, at_least=push.at_least)
    return place


def _check_width(vector: Floats, place: HookPlace, model: ServedModel) -> None:
    shape = model.description.shape
    width = shape.d_heads if place.point == "attn.hook_z" else shape.d_model
    if vector.shape != (width,):
        raise InvalidRequest(
            f"Steering vector has {vector.size} numbers, but {place.name} of {model.description.names.id} has {width}",
            f"Send {width} numbers.",
        )


def _check_condition(condition: Condition, places: Sequence[HookPlace], model: ServedModel) -> None:
    source = model.description.source(condition.source)
    check_feature(source, condition.index)
    if not np.isfinite(condition.above):
        raise InvalidRequest("The condition's threshold must be a finite number")
    read = parse_hook(source.hook_name)
    first = min(places, key=lambda place: place.depth)
    if read.depth > first.depth:
        raise InvalidRequest(
            f"The condition reads {source.hook_name}, which comes after {first.name}, where steering begins",
            "Choose a feature of an earlier layer for the condition.",
        )
