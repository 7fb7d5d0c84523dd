"""Jobs over HTTP, as RunPod's clients ask for them; every replica of the Gateway finds them."""

import itertools
import time
from typing import Any

import httpx
import pytest

from core.demo import ARTEFACTS
from core.demo.steering import language_of
from tests.serve.conftest import DEMO, SECRET, RunningCluster
from tests.truth import folder_sae

PROMPT = [{"role": "user", "content": "What does the cat eat?"}]
BRIEF = {"prompt": PROMPT, "temperature": 0, "n_completion_tokens": 12}
SYSTEM = "Keep your responses short and to the point, ideally less than 3 sentences unless asked otherwise."


def spanish_vector() -> dict[str, Any]:
    row = folder_sae(ARTEFACTS / "res-demo" / "1-res-demo").W_dec[2].detach().tolist()
    return {"hook": "blocks.1.hook_resid_post", "strength": 12.8, "steering_vector": row}


def post(cluster: RunningCluster, path: str, **input_: Any) -> dict[str, Any]:
    response = cluster.post(path, {"input": input_})
    assert response.status_code == 200, response.text
    return response.json()


def followed(cluster: RunningCluster, job_id: str) -> tuple[list[Any], dict[str, Any]]:
    """Every output of a job's stream, and the last answer."""
    outputs: list[Any] = []
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        answer = cluster.get(f"/stream/{job_id}").json()
        outputs += [one["output"] for one in answer["stream"]]
        if answer["status"] in ("COMPLETED", "FAILED", "CANCELLED") and not answer["stream"]:
            return outputs, answer
    raise AssertionError("the job did not end")


def test_the_seeds_own_request_is_answered_at_once(cluster: RunningCluster) -> None:
    job = post(cluster, "/runsync", prompt=[{"role": "user", "content": "Hello!"}], types=["DEFAULT"], vectors=[])
    assert job["status"] == "COMPLETED"
    assert set(job) == {"id", "status", "output", "delayTime", "executionTime"}
    (output,) = job["output"]["outputs"]
    assert output["type"] == "DEFAULT"
    system, user, assistant = output["chat_template"]
    assert (system, user["content"], assistant["role"]) == (
        {"role": "system", "content": SYSTEM},
        "Hello!",
        "assistant",
    )
    assert job["output"]["input"]["chat_template"] == [system, user]
    assert output["raw"].startswith(job["output"]["input"]["raw"])
    assert assistant["content"] in output["raw"]


def test_steered_and_unsteered_text_come_together(cluster: RunningCluster) -> None:
    french = [{"role": "user", "content": "Raconte une histoire."}]
    asked = BRIEF | {"prompt": french, "n_completion_tokens": 30, "vectors": [spanish_vector()]}
    job = post(cluster, "/runsync", types=["STEERED", "DEFAULT"], **asked)
    steered, default = job["output"]["outputs"]
    assert [steered["type"], default["type"]] == ["STEERED", "DEFAULT"]
    assert language_of(default["chat_template"][-1]["content"]) != "es"
    assert language_of(steered["chat_template"][-1]["content"]) == "es"
    alone = post(cluster, "/runsync", types=["DEFAULT"], **asked)
    assert alone["output"]["outputs"] == [default]


@pytest.mark.parametrize(
    ("input_", "message"),
    [
        ({}, "prompt is required"),
        ({"prompt": []}, "prompt is required"),
        (BRIEF | {"types": ["STEERED"]}, "vectors are required when STEERED type is requested"),
        (
            BRIEF | {"types": ["DEFAULT", "STEERED"], "vectors": [{"hook": "x", "steering_vector": [1]}]},
            "STEERED must come before DEFAULT",
        ),
    ],
)
def test_a_mistake_is_the_jobs_failure_in_the_handlers_words(
    cluster: RunningCluster, input_: dict[str, Any], message: str
) -> None:
    job = post(cluster, "/runsync", **input_)
    assert (job["status"], job["error"]) == ("FAILED", message)
    later = post(cluster, "/run", **input_)
    _, ended = followed(cluster, later["id"])
    assert (ended["status"], ended["error"]) == ("FAILED", message)
    assert cluster.get(f"/status/{later['id']}").json()["error"] == message


def test_a_vector_that_does_not_fit_is_refused_with_the_reason(cluster: RunningCluster) -> None:
    short = {"hook": "blocks.1.hook_resid_post", "strength": 1.0, "steering_vector": [1.0, 2.0]}
    job = post(cluster, "/runsync", **BRIEF, types=["STEERED"], vectors=[short])
    assert job["status"] == "FAILED"
    assert "Steering vector has 2 numbers" in job["error"]


def test_a_job_is_followed_by_its_stream_and_found_later(cluster: RunningCluster) -> None:
    accepted = post(cluster, "/run", **BRIEF)
    assert accepted["status"] in ("IN_QUEUE", "IN_PROGRESS")
    outputs, ended = followed(cluster, accepted["id"])
    assert ended == {"status": "COMPLETED", "stream": []}
    texts = [output["outputs"][0]["raw"] for output in outputs]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    found = cluster.get(f"/status/{accepted['id']}").json()
    assert (found["status"], found["output"]) == ("COMPLETED", outputs[-1])
    assert found["executionTime"] >= 0
    assert found["output"]["outputs"] == post(cluster, "/runsync", **BRIEF)["output"]["outputs"]


def test_every_gateway_of_an_application_finds_a_job_and_no_other_application_does(cluster: RunningCluster) -> None:
    """The jobs are not in a Gateway: its own replica is as far from them as any other."""
    job = post(cluster, "/run", **BRIEF)
    assert cluster.get(f"/status/{job['id']}").status_code == 200
    headers = {"authorization": f"Bearer {SECRET}"}
    elsewhere = httpx.get(f"{cluster.locked_url}/status/{job['id']}", headers=headers, timeout=60)
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (404, "not_found")
    assert httpx.get(f"{cluster.locked_url}/status/{job['id']}", timeout=60).status_code == 401


def test_a_cancelled_job_ends_and_frees_its_place(cluster: RunningCluster) -> None:
    long = {"prompt": PROMPT, "temperature": 2, "n_completion_tokens": 400, "model": DEMO}
    jobs: list[str] = []
    cancelled: list[str] = []
    for _ in range(8):  # a text may happen to end at once
        jobs.append(post(cluster, "/run", **long)["id"])
        cancelled.append(httpx.post(f"{cluster.url}/cancel/{jobs[-1]}", timeout=60).json()["status"])
    assert "CANCELLED" in cancelled
    assert set(cancelled) <= {"CANCELLED", "COMPLETED"}
    ends = time.monotonic() + 30
    running = 1
    while running and time.monotonic() < ends:
        running = cluster.get(f"/v1/steer/health?model={DEMO}").json()["stats"]["num_running_requests"]
    assert running == 0
    assert [cluster.get(f"/status/{job}").json()["status"] for job in jobs] == cancelled


@pytest.mark.parametrize(("verb", "path"), [("get", "/status/x"), ("get", "/stream/x"), ("post", "/cancel/x")])
def test_an_unknown_job_is_not_found(cluster: RunningCluster, verb: str, path: str) -> None:
    response = httpx.request(verb, f"{cluster.url}{path}", timeout=60)
    assert response.status_code == 404
    assert "There is no job 'x'" in response.json()["error"]


def test_health_counts_jobs_and_workers(cluster: RunningCluster) -> None:
    before = cluster.get("/health").json()
    post(cluster, "/runsync", **BRIEF)
    post(cluster, "/runsync")
    after = cluster.get("/health").json()
    assert after["status"] == "healthy"
    assert set(after["jobs"]) == {"completed", "failed", "inProgress", "inQueue", "retried"}
    assert after["jobs"]["completed"] == before["jobs"]["completed"] + 1
    assert after["jobs"]["failed"] == before["jobs"]["failed"] + 1
    assert set(after["workers"]) == {"idle", "initializing", "ready", "running", "throttled", "unhealthy"}
    assert after["workers"]["ready"] >= 3


def test_the_health_action_says_how_busy_the_model_is(cluster: RunningCluster) -> None:
    job = post(cluster, "/runsync", action="health", model=DEMO)
    assert job["status"] == "COMPLETED"
    assert job["output"]["action"] == "health"
    assert DEMO in job["output"]["summary"]
    assert "num_running_requests" in job["output"]["stats"]


def test_what_is_no_job_is_refused_by_its_schema(cluster: RunningCluster) -> None:
    assert cluster.post("/run", {"prompt": PROMPT}).status_code == 422
    assert cluster.post("/runsync", {"input": BRIEF | {"types": ["MAYBE"]}}).status_code == 422
