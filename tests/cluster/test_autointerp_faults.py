"""Replicas that die while a job is worked on: what was done stays, nothing is done thrice, the ledger is right."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._common.test_utils import wait_for_condition

from cluster.arguments import GatewayArgs
from cluster.autointerp_arguments import AutointerpArgs
from core.autointerp.jobs.journal import ChargeFile
from core.autointerp.jobs.units import account_of
from core.autointerp.providers.ledger import Charge
from tests.ray_testing import deploy, serve_instance, wait_for_replicas
from tests.serve.provider_thread import RunningProvider, running_provider
from tests.serve.test_autointerp_jobs import LATENTS, Caller, knowing
from tests.unit.autointerp import fake_provider as fake
from tests.unit.autointerp.fake_provider import Call

APP = "autointerp"
EXPLAINED = len(LATENTS)
REPLICA = {"num_cpus": 0.1}


@pytest.fixture(scope="module")
def provider() -> Iterator[RunningProvider]:
    with running_provider() as running:
        running.becomes(knowing)
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("autointerp-faults")


@pytest.fixture(scope="module")
def caller(provider: RunningProvider, folder: Path) -> Iterator[Caller]:
    from deployments.app import build_gateway
    from deployments.autointerp.app import build_autointerp_app

    (folder / "key").write_text("sk-our-own")
    args = {
        "folder": str(folder),
        "allow_loopback": True,
        "providers": [{"base_url": provider.base_url, "key": {"file": str(folder / "key")}}],
        "attempts": 6,
        "attempt_timeout_s": 5.0,  # a call that hangs in a replica that lives on is made again
        "explainer": REPLICA,
        "scorer": REPLICA,
        "jobs": {"workers": {"num_cpus": 0.5, "reader_cpus": 0.1, "threads": 1}},
    }
    with serve_instance() as url:
        deploy(build_gateway, GatewayArgs.model_validate({"num_cpus": 0.1}), "gateway", "/")
        deploy(build_autointerp_app, AutointerpArgs.model_validate(args), APP, None)
        one = Caller(url, provider)
        with one.client:
            first = one.begin()  # makes the cache
            assert one.follow(first)[-1]["data"]["status"] == "succeeded"
            yield one


def kill(deployment: str) -> None:
    """Kills a replica's process, as the machine would."""
    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    name = next(name for name in names if name.startswith(f"SERVE_REPLICA::{APP}#{deployment}#"))
    replica = ray.get_actor(name, namespace="serve")
    pid = ray.get(replica.__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGKILL)


def broken_off(
    caller: Caller,
    provider: RunningProvider,
    folder: Path,
    seed: int,
    deployment: str,
    answered_before: int,
    *scorers: str,
) -> tuple[str, list[Call]]:
    """A job in the middle of which a replica was killed, when it is finished, and all calls that it made."""
    dying = True
    answered: list[Call] = []

    def act(call: Call) -> Any:
        if dying and len(answered) >= answered_before:
            return fake.hangs()
        answered.append(call)
        return None

    provider.becomes(knowing, act)
    seeded = {"params": {"seed": seed}}  # other than before, so that no reply is in the cache
    steps = {"explainers": [{"type": "default"} | seeded], "scorers": [{"type": name} | seeded for name in scorers]}
    job_id = caller.begin(concurrency=2, **steps)
    provider.until(lambda it: len(answered) >= answered_before and it.in_flight > 0)
    # What was answered in the moment of a death is nobody's to charge: the ones before are to be told of.
    wait_for_condition(lambda: len(charged(folder, job_id)) >= answered_before, timeout=60, retry_interval_ms=100)
    kill(deployment)
    dying = False
    assert caller.follow(job_id)[-1]["data"]["status"] == "succeeded"
    return job_id, list(provider.calls)


def charged(folder: Path, job_id: str) -> list[Charge]:
    """What a job was charged with."""
    charges = ChargeFile(folder / "charges.sqlite")
    mine = [charge for charge in charges.charges() if account_of(job_id) in charge.entries]
    charges.close()
    return mine


def check(caller: Caller, folder: Path, job_id: str, calls: list[Call]) -> None:
    """Every unit is done, none was tried thrice, and what was answered was charged once."""
    lines = caller.results(job_id)
    units = {(line["index"], line["stage"]) for line in lines}
    assert len(units) == len(lines) == caller.state(job_id)["total"]
    assert {line["state"] for line in lines} == {"done"}
    assert max(line["attempts"] for line in lines) == 2
    answered = Counter(repr(call.body["messages"]) for call in calls if call.answered)
    assert max(answered.values()) <= 2
    mine = charged(folder, job_id)
    assert len(mine) == answered.total()
    assert caller.state(job_id)["spentTokens"] == sum(charge.tokens for charge in mine)


@pytest.mark.parametrize(
    ("deployment", "seed", "answered_before", "scorers"),
    [
        ("Jobs", 101, EXPLAINED + 2, ["detection"]),
        ("Explainer", 102, 1, []),
        ("Scorer", 103, EXPLAINED + 2, ["detection"]),
    ],
    ids=["Jobs", "Explainer", "Scorer"],
)
def test_a_replica_that_dies_costs_a_second_attempt_of_what_it_did(
    caller: Caller,
    provider: RunningProvider,
    folder: Path,
    deployment: str,
    seed: int,
    answered_before: int,
    scorers: list[str],
) -> None:
    job_id, calls = broken_off(caller, provider, folder, seed, deployment, answered_before, *scorers)
    wait_for_replicas(APP, deployment, 1)
    check(caller, folder, job_id, calls)


def test_a_stream_of_events_goes_on_over_the_death_of_the_replica_behind_it(
    caller: Caller, provider: RunningProvider, folder: Path
) -> None:
    job_id, _ = broken_off(caller, provider, folder, 104, "Jobs", EXPLAINED + 2, "detection")
    numbers = [event["id"] for event in caller.follow(job_id)]
    assert numbers == list(range(1, len(numbers) + 1))
