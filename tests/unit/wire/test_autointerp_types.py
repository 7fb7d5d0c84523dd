"""Bodies of the typed routes are described, and their examples are accepted."""

import inspect
from typing import Any

import pytest

from core.wire import autointerp_types
from core.wire.autointerp_types import ExplainTypedRequest, ScoreTypedRequest
from core.wire.base import WireModel

MODELS: list[Any] = [
    model
    for name, model in inspect.getmembers(autointerp_types, inspect.isclass)
    if issubclass(model, WireModel) and not name.startswith("_") and model.__module__ == autointerp_types.__name__
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_described(model: Any) -> None:
    schema = model.model_json_schema(mode="serialization")
    assert schema["properties"]
    assert all(field.get("description") or "$ref" in field for field in schema["properties"].values())


@pytest.mark.parametrize("model", [ExplainTypedRequest, ScoreTypedRequest])
def test_examples_are_accepted(model: Any) -> None:
    schema = model.model_json_schema()
    for example in schema["examples"]:
        assert set(example) <= set(schema["properties"])
        model.model_validate(example)


def test_a_key_is_in_no_representation_and_no_dump() -> None:
    request = ExplainTypedRequest.model_validate({"openrouter_key": "sk-hidden", "model": "m"})
    assert request.case == "snake"
    assert "hidden" not in repr(request) + str(request.model_dump()) + request.model_dump_json()
