import json
from pathlib import Path
from typing import Any

import pytest
from test_wire_matches_the_published_openapi import _models, differences

from core.wire import autointerp

DOCUMENT = json.loads((Path(__file__).parent / "data" / "autointerp.json").read_text())
PUBLISHED: dict[str, dict[str, Any]] = DOCUMENT["components"]["schemas"]
FRAMEWORK = {"HTTPValidationError", "ValidationError"}
SCHEMAS = {name: schema for name, schema in PUBLISHED.items() if name not in FRAMEWORK and "enum" not in schema}
MODELS = _models(autointerp)
REQUESTS = ["ExplainDefaultRequest", "ScoreEmbeddingRequest", "ScoreFuzzDetectionRequest"]
# Fields that the peer does not have. A request must be complete without them.
ASKING = {"provider", "baseUrl", "temperature", "maxTokens", "seed", "promptStyle"}
ADDITIONS = {
    "ExplainDefaultRequest": ASKING | {"showActivations"},
    "ExplainDefaultResponse": {"requestId", "usage"},
    "ScoreEmbeddingRequest": {"embeddingModel"},
    "ScoreEmbeddingResponse": {"requestId"},
    "ScoreFuzzDetectionRequest": ASKING,
    "ScoreFuzzDetectionResponse": {"requestId", "usage", "nFailed"},
}
# Fields that the peer insists on and we do not: the key may come in a header or be the cluster's own.
RELAXED = {"ExplainDefaultRequest": {"openrouterKey"}, "ScoreFuzzDetectionRequest": {"openrouterKey"}}


def ours(name: str) -> dict[str, Any]:
    """Our schema without what we add to the peer's, and with what we relax required again."""
    schema = MODELS[name].model_json_schema(by_alias=True)
    added, relaxed = ADDITIONS.get(name, set()), RELAXED.get(name, set())
    assert added <= schema["properties"].keys()
    assert not (added | relaxed) & set(schema.get("required", []))
    schema["properties"] = {key: value for key, value in schema["properties"].items() if key not in added}
    schema["required"] = [*schema.get("required", []), *relaxed]
    return schema


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_published_schema_is_ours(name: str) -> None:
    assert differences(name, SCHEMAS[name], ours(name)) == []


def test_the_published_choice_is_ours() -> None:
    assert [kind.value for kind in autointerp.ScoreFuzzDetectionType] == PUBLISHED["ScoreFuzzDetectionType"]["enum"]


def test_a_difference_is_found() -> None:
    schema = ours("ScoreFuzzDetectionRequest")
    schema["properties"]["openrouterKey"] = {"type": "integer"}
    del schema["properties"]["explanation"]
    schema["required"].remove("model")
    assert len(differences("ScoreFuzzDetectionRequest", SCHEMAS["ScoreFuzzDetectionRequest"], schema)) == 3


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_field_is_described(name: str) -> None:
    for field in MODELS[name].model_json_schema(mode="serialization").get("properties", {}).values():
        assert field.get("description")


@pytest.mark.parametrize("name", REQUESTS)
def test_every_request_has_examples_that_it_accepts(name: str) -> None:
    schema = MODELS[name].model_json_schema()
    assert schema["examples"]
    for example in schema["examples"]:
        assert set(example) <= set(schema["properties"])
        MODELS[name].model_validate(example)


@pytest.mark.parametrize("path", sorted(DOCUMENT["paths"]))
def test_every_published_route_has_its_bodies_and_its_published_example_is_accepted(path: str) -> None:
    operation = DOCUMENT["paths"][path]["post"]
    body = operation["requestBody"]["content"]["application/json"]
    request = body["schema"]["$ref"].rsplit("/", 1)[1]
    response = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
    assert {request, response} <= MODELS.keys()
    if "example" in body:
        MODELS[request].model_validate(body["example"])
