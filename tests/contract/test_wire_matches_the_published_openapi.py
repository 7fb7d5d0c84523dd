import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from core.wire import (
    activations,
    cluster,
    features,
    internals,
    positions,
    rankings,
    seed,
    seed_completion,
    steering,
    steering_chat,
    tokens,
)

DOCUMENT = json.loads((Path(__file__).parent / "data" / "inference.json").read_text())
PUBLISHED: dict[str, dict[str, Any]] = DOCUMENT["components"]["schemas"]
SCHEMAS = {name: schema for name, schema in PUBLISHED.items() if "enum" not in schema}
CHOICES = {name: schema for name, schema in PUBLISHED.items() if "enum" in schema}


def _models(*modules: ModuleType) -> dict[str, type[BaseModel]]:
    return {
        name: model
        for module in modules
        for name, model in vars(module).items()
        if isinstance(model, type) and issubclass(model, BaseModel)
    }


MODELS = _models(activations, rankings, positions, internals, features, tokens, cluster, steering, steering_chat)
ALL_MODELS = MODELS | _models(seed, seed_completion)
REQUESTS = sorted(name for name in ALL_MODELS if name.endswith("Request") and name != "SeedRequest")
# FastAPI's own error schemas; ours leave the input out.
FRAMEWORK = {"HTTPValidationError", "ValidationError"}
# Fields that the peer does not have. A request must be complete without them.
ADDITIONS = {
    "ActivationAllRequest": {"featureFilter"},
    "ActivationAllBatchRequest": {"featureFilter"},
    "ApplyChatTemplateRequest": {"model"},
    "HealthResponse": {"jobs", "workers"},
    "NPSteerFeature": {"atLeast"},
    "NPSteerVector": {"atLeast"},
    "SteerCompletionResponse": {"vectorReads"},
    "SteerCompletionChatResponse": {"vectorReads"},
    "SteerCompletionRequest": {"streamMode", "positions", "condition", "topP", "vectorReads"},
    "SteerCompletionChatRequest": {"streamMode", "positions", "condition", "topP", "vectorReads"},
}
# Values of a choice that the peer does not have.
ADDED_VALUES = {"NPSteerMethod": {"ABLATION"}}


def _shape(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without its words, references replaced by the names of what they refer to."""
    words = {"title", "description", "examples", "default"}
    shape: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref":
            shape["ref"] = value.rsplit("/", 1)[1]
        elif key == "anyOf":
            shape["anyOf"] = sorted((_shape(option) for option in value), key=str)
        elif isinstance(value, dict):
            shape[key] = _shape(value)
        elif key not in words:
            shape[key] = value
    return shape


def differences(name: str, published: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What of a published schema ours gets wrong, one line each."""
    found: list[str] = []
    theirs, mine = published["properties"], ours["properties"]
    found += [f"{name}.{field} is missing" for field in sorted(theirs.keys() - mine.keys())]
    found += [
        f"{name}.{field} is not published" for field in sorted(mine.keys() - theirs.keys() - ADDITIONS.get(name, set()))
    ]
    if set(published.get("required", [])) != set(ours.get("required", [])):
        found.append(f"{name} requires {ours.get('required')}, published {published.get('required')}")
    for field in sorted(theirs.keys() & mine.keys()):
        expected, actual = _shape(theirs[field]), _shape(mine[field])
        if expected != actual:
            found.append(f"{name}.{field} is {actual}, published {expected}")
        if theirs[field].get("default") != mine[field].get("default"):
            found.append(f"{name}.{field} defaults to {mine[field].get('default')!r}")
    return found


@pytest.mark.parametrize("name", sorted(SCHEMAS.keys() - FRAMEWORK))
def test_every_published_schema_is_ours(name: str) -> None:
    assert differences(name, SCHEMAS[name], MODELS[name].model_json_schema(by_alias=True)) == []


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_every_published_choice_is_ours(name: str) -> None:
    ours = {value.value for value in getattr(steering, name)}
    assert ours == set(CHOICES[name]["enum"]) | ADDED_VALUES.get(name, set())


@pytest.mark.parametrize("name", sorted(ADDITIONS))
def test_what_we_add_is_optional(name: str) -> None:
    schema = MODELS[name].model_json_schema()
    assert ADDITIONS[name] <= schema["properties"].keys()
    assert not ADDITIONS[name] & set(schema["required"])


def test_a_difference_of_any_kind_is_found() -> None:
    name = "ActivationAllRequest"
    ours = MODELS[name].model_json_schema()
    assert differences(name, SCHEMAS[name], ours) == []
    spoilt = []
    for change in (
        lambda s: s["properties"].pop("prompt"),
        lambda s: s["properties"].update(extra={"type": "string"}),
        lambda s: s["properties"]["prompt"].update(type="integer"),
        lambda s: s["properties"]["sortByTokenIndexes"]["items"].update(type="number"),
        lambda s: s["properties"]["numResults"].update(anyOf=[{"type": "integer"}]),
        lambda s: s["properties"]["numResults"].update(default=10),
        lambda s: s["required"].remove("ignoreBos"),
        lambda s: s["required"].append("numResults"),
    ):
        schema = deepcopy(ours)
        change(schema)
        spoilt.append(len(differences(name, SCHEMAS[name], schema)))
    assert spoilt == [1] * 8


def _subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from _subschemas(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _subschemas(value)


@pytest.mark.parametrize("name", sorted(ALL_MODELS))
def test_no_field_is_number_or_integer(name: str) -> None:
    for schema in _subschemas(ALL_MODELS[name].model_json_schema()):
        kinds = {option.get("type") for option in schema.get("anyOf", []) if isinstance(option, dict)}
        assert not {"number", "integer"} <= kinds
        assert not isinstance(schema.get("type"), list)


@pytest.mark.parametrize("name", sorted(ALL_MODELS))
def test_every_field_is_described(name: str) -> None:
    for field in ALL_MODELS[name].model_json_schema().get("properties", {}).values():
        assert field.get("description")


@pytest.mark.parametrize("name", REQUESTS)
def test_every_request_has_an_example_that_it_accepts(name: str) -> None:
    model = ALL_MODELS[name]
    schema = model.model_json_schema()
    assert schema["examples"]
    for example in schema["examples"]:
        request = model.model_validate(example)
        assert set(example) <= set(schema["properties"])
        for check in ("target", "query", "wanted_features", "directions"):
            if hasattr(request, check):
                getattr(request, check)()
