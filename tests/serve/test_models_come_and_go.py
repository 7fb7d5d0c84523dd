"""A model is added to a running cluster and removed again; the others keep their replicas and go on answering."""

import httpx
from ray import serve
from ray._common.test_utils import wait_for_condition

from cluster.arguments import ModelAppArgs
from tests.ray_testing import deploy
from tests.serve.conftest import DEMO, GPT2, RunningCluster
from tests.tiny_models import GEMMA2_IT_ID, LLAMA_ID, save_sae_folder


def served(cluster: RunningCluster) -> set[str]:
    return {model["id"] for model in cluster.get("/v1/models").json()["models"]}


def test_the_gateway_notices_a_new_model_and_its_removal(cluster: RunningCluster) -> None:
    from deployments.app import build_model_app

    body = {"prompt": "Hello", "model": LLAMA_ID, "source": "1-mine", "index": "3"}
    assert cluster.post("/v1/activation/single", body).status_code == 404
    before = serve.status().applications[DEMO].last_deployed_time_s
    folder = save_sae_folder(cluster.folder / "mine", "mine", {1: "blocks.1.hook_resid_post"})
    args = {"model": LLAMA_ID, "runners": [{"source_sets": ["mine"], "source_folders": {"mine": str(folder)}}]}
    deploy(build_model_app, ModelAppArgs.model_validate(args), "llama", None)
    assert cluster.post("/v1/activation/single", body).status_code == 200
    assert served(cluster) == {DEMO, GPT2, "llama3.1-8b"}
    assert cluster.post("/v1/activation/single", body | {"model": "llama3.1-8b"}).status_code == 200
    serve.delete("llama")
    wait_for_condition(lambda: cluster.post("/v1/activation/single", body).status_code == 404, timeout=20)
    assert served(cluster) == {DEMO, GPT2}
    assert serve.status().applications[DEMO].last_deployed_time_s == before


def test_other_weights_can_stand_under_a_models_name(cluster: RunningCluster) -> None:
    """An instruct checkpoint that borrows its base model's name and source sets (`override_model_id`)."""
    from deployments.app import build_model_app

    args = {"model": "gemma-2-2b", "weights": GEMMA2_IT_ID, "device": "cpu"}
    deploy(build_model_app, ModelAppArgs.model_validate(args), "gemma", None)
    answer = cluster.post("/v1/activation/raw", {"prompts": ["Hi"], "model": "gemma-2-2b", "layers": [0]})
    assert answer.status_code == 200
    described = next(m for m in cluster.get("/v1/models").json()["models"] if m["id"] == "gemma-2-2b")
    assert described["weights"] == GEMMA2_IT_ID
    serve.delete("gemma")


def test_ready_tells_every_application(cluster: RunningCluster) -> None:
    answer = cluster.get("/ready")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ready"
    assert {"gateway", DEMO, GPT2} <= set(answer.json()["applications"])


def test_capabilities_describe_one_model_in_snake_case(cluster: RunningCluster) -> None:
    assert cluster.get("/v1/capabilities").status_code == 400
    advert = cluster.get(f"/v1/capabilities?model={DEMO}").json()
    assert advert["backend"] == "eager"
    assert advert["num_layers"] == 4
    assert advert["sae_sets"] == ["res-demo", "att-demo"]
    assert advert["endpoints"]["dfa"]
    assert not advert["endpoints"]["neurons"]
    assert advert["sae_cache"]["registered_count"] == len(advert["sae_sets"]) * 4


def test_models_lists_layers_widths_and_limits(cluster: RunningCluster) -> None:
    models = {model["id"]: model for model in cluster.get("/v1/models").json()["models"]}
    gpt2 = models[GPT2]
    assert set(gpt2["aliases"]) == {"openai-community/gpt2", "gpt2"}
    assert [s["id"] for s in gpt2["sourceSets"]] == ["res-jb", "local"]
    assert [s["id"] for s in gpt2["sourceSets"][0]["sources"]] == ["0-res-jb", "1-res-jb", "2-res-jb", "3-res-jb"]
    assert gpt2["limits"] == {
        "tokenLimit": 64,
        "generationLimit": 256,
        "batchLimit": 6,
        "maxNumResults": 1000,
    }
    assert [runner["name"] for runner in gpt2["runners"]] == ["Published", "Local"]
    assert httpx.get(f"{cluster.url}/v1/models", timeout=60).headers["content-type"] == "application/json"
