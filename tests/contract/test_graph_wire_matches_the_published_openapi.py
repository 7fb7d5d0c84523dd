import json
from pathlib import Path
from typing import Any

import pytest
from test_wire_matches_the_published_openapi import _models, differences

from core.wire import graph, graph_jobs

DOCUMENT = json.loads((Path(__file__).parent / "data" / "graph.json").read_text())
FRAMEWORK = {"HTTPValidationError", "ValidationError"}
SCHEMAS: dict[str, dict[str, Any]] = {
    name: schema for name, schema in DOCUMENT["components"]["schemas"].items() if name not in FRAMEWORK
}
MODELS = _models(graph, graph_jobs)
# Fields that the peer does not have. A request must be complete without them.
ADDITIONS = {
    "ForwardPassRequest": {"model_id", "transcoder_set"},
    "GraphGenerationRequest": {"transcoder_set", "targets", "labels", "destination"},
    "GraphGenerationResponse": {"detail", "url"},
    "ParseChatPromptRequest": {"model_id"},
    "SteerRequest": {"transcoder_set"},
}
REQUESTS = [
    "ForwardPassRequest",
    "GraphGenerationRequest",
    "GraphPruneRequest",
    "GraphServerlessInput",
    "ParseChatPromptRequest",
    "SteerRequest",
]


def ours(name: str) -> dict[str, Any]:
    """Our schema without what we add to the peer's."""
    schema = MODELS[name].model_json_schema(by_alias=True)
    added = ADDITIONS.get(name, set())
    assert added <= schema["properties"].keys()
    assert not added & set(schema.get("required", []))
    schema["properties"] = {key: value for key, value in schema["properties"].items() if key not in added}
    return schema


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_published_schema_is_ours(name: str) -> None:
    assert differences(name, SCHEMAS[name], ours(name)) == []


def test_a_difference_is_found() -> None:
    schema = ours("SteerFeature")
    schema["properties"]["delta"] = {"type": "string"}
    del schema["properties"]["ablate"]
    assert len(differences("SteerFeature", SCHEMAS["SteerFeature"], schema)) == 2


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_field_is_described(name: str) -> None:
    for field in MODELS[name].model_json_schema(mode="serialization").get("properties", {}).values():
        assert field.get("description")


@pytest.mark.parametrize("name", REQUESTS)
def test_every_request_has_examples_that_it_accepts(name: str) -> None:
    examples = MODELS[name].model_json_schema()["examples"]
    assert examples
    for example in examples:
        MODELS[name].model_validate(example)


def test_every_published_route_has_its_bodies() -> None:
    named = {
        reference["$ref"].rsplit("/", 1)[1]
        for methods in DOCUMENT["paths"].values()
        for operation in methods.values()
        for reference in (
            *(content["schema"] for content in operation.get("requestBody", {}).get("content", {}).values()),
            operation["responses"]["200"]["content"]["application/json"]["schema"],
        )
    }
    assert named <= MODELS.keys()
    assert len(named) == 9
