"""A whole cluster dies in the middle of its jobs and is started again as it was: they go on, and the ledger is right.

rayscope serve -> jobs, half done -> kill -9 of every process -> rayscope serve, over the same folder
"""

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from ray._common.test_utils import wait_for_condition

from tests.cluster.test_autointerp_faults import EXPLAINED, REPLICA, charged, check
from tests.ray_testing import free_port
from tests.serve.provider_thread import RunningProvider, running_provider
from tests.serve.test_autointerp_jobs import KEY, OWN_KEY, Caller, knowing
from tests.unit.autointerp import fake_provider as fake
from tests.unit.autointerp.fake_provider import Call, FakeProvider

ROOT = Path(__file__).parents[2]
ANSWERED_BEFORE = EXPLAINED + 2
_START_S = 180
_PATIENCE_S = 90


class Cluster:
    """A cluster that is a command of its own, and can be started again after its death.

    Its processes are the command's descendants, and whatever else was started with the temporary folder that nobody
    else has: a process that has lost its parent is nobody's descendant.
    """

    def __init__(self, config: dict[str, Any], folder: Path, temp: str) -> None:
        port = config["http_options"]["port"]
        self.url = f"http://127.0.0.1:{port}"
        self._temp = temp
        self._config = folder / "config.yaml"
        self._config.write_text(yaml.safe_dump(config))
        self._log = folder / "serve.log"
        self._command: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; returns when all of it runs."""
        command = [str(Path(sys.executable).with_name("rayscope")), "serve", "--config", str(self._config)]
        folders = dict.fromkeys(("RAY_TMPDIR", "RAY_TEMP_DIR", "TMPDIR"), self._temp)
        environment = os.environ | folders | {"COLUMNS": "200"}
        environment.pop("RAY_ADDRESS", None)
        with self._log.open("wb") as log:
            self._command = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        wait_for_condition(self._has_come_up, timeout=_START_S, retry_interval_ms=200, raise_exceptions=True)

    def kill(self) -> set[str]:
        """Kills every process of it at once, as a power cut would, and waits until none lives; their names."""
        seen: set[psutil.Process] = set()
        names: set[str] = set()

        def nobody_lives() -> bool:
            seen.update(self._found())
            living = [process for process in seen if _lives(process)]
            for process in living:
                with suppress(psutil.NoSuchProcess):
                    names.add(process.name())
                    process.kill()
            return not living

        wait_for_condition(nobody_lives, timeout=30, retry_interval_ms=100)
        return names

    def _has_come_up(self) -> bool:
        assert self._command is not None
        said = self._log.read_text(errors="replace")
        assert self._command.poll() is None, said
        return "Stop with Ctrl-C" in said

    def _found(self) -> set[psutil.Process]:
        found = {process for process in psutil.process_iter() if self._owns(process)}
        if self._command is not None and self._command.poll() is None:
            command = psutil.Process(self._command.pid)
            found |= {command, *command.children(recursive=True)}
        return found

    def _owns(self, process: psutil.Process) -> bool:
        try:
            return any(self._temp in text for text in (*process.cmdline(), *process.environ().values()))
        except psutil.Error:
            return False  # it has ended, or is another user's


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def cluster_of(provider: RunningProvider, folder: Path) -> Iterator[Cluster]:
    """A running cluster that explains and scores, and keeps all that it knows in `folder`."""
    (folder / "key").write_text(OWN_KEY)
    autointerp = {
        "folder": str(folder / "state"),
        "allow_loopback": True,
        "providers": [{"base_url": provider.base_url, "key": {"file": str(folder / "key")}}],
        "explainer": REPLICA,
        "scorer": REPLICA,
        "jobs": {"workers": {"num_cpus": 0.5, "reader_cpus": 0.1, "threads": 1}},
    }
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = free_port()
    config["applications"] = [one for one in config["applications"] if one["name"] in ("gateway", "autointerp")]
    for application in config["applications"]:
        application["args"] = autointerp if application["name"] == "autointerp" else {"num_cpus": 0.1}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as temp:
        cluster = Cluster(config, folder, temp)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.kill()


def key_of(call: Call) -> str:
    """Whose call it is."""
    return call.headers["authorization"].removeprefix("Bearer ")


def calls_with(provider: RunningProvider, key: str) -> list[Call]:
    """The calls that one key pays for."""
    return [call for call in provider.calls if key_of(call) == key]


def kept_replies(state: Path) -> int:
    """Replies in the cache's file."""
    with closing(sqlite3.connect(state / "replies.sqlite")) as file:
        return file.execute("SELECT count(*) FROM replies").fetchone()[0]


def half_done(caller: Caller, provider: RunningProvider, state: Path, key: str, seed: int, **more: Any) -> str:
    """A job of which some units are done, all that was answered is charged and kept, and calls hang."""
    seeded = {"params": {"seed": seed}}  # other than another job's, so that no reply is in the cache
    steps = {"explainers": [{"type": "default"} | seeded], "scorers": [{"type": "detection"} | seeded]}
    job_id = caller.begin(concurrency=2, **steps, **more)
    provider.until(lambda _: len(calls_with(provider, key)) > ANSWERED_BEFORE, _PATIENCE_S)
    wait_for_condition(lambda: len(charged(state, job_id)) == ANSWERED_BEFORE, timeout=60, retry_interval_ms=100)
    answered = sum(call.answered for call in provider.calls)
    wait_for_condition(lambda: kept_replies(state) == answered, timeout=60, retry_interval_ms=100)
    wait_for_condition(lambda: caller.state(job_id)["done"] > 0, timeout=60, retry_interval_ms=100)
    return job_id


def told_tokens(calls: list[Call]) -> int:
    """What the provider said that its answers took."""
    counter = FakeProvider()
    return sum(counter.completion(call, knowing(call))["usage"]["total_tokens"] for call in calls if call.answered)


def check_to_the_end(caller: Caller, provider: RunningProvider, state: Path, job_id: str, key: str) -> None:
    """See `check`; what was answered before is not asked again, and the ledger counted what the provider did."""
    calls = calls_with(provider, key)
    check(caller, state, job_id, calls)
    answered = Counter(repr(call.body["messages"]) for call in calls if call.answered)
    assert set(answered.values()) == {1}
    assert caller.state(job_id)["spentTokens"] == told_tokens(calls)
    numbers = [event["id"] for event in caller.follow(job_id)]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.timeout(600)
def test_jobs_go_on_after_the_death_of_the_whole_cluster(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_provider() as provider, cluster_of(provider, tmp_path) as cluster:
        dying = True

        def act(call: Call) -> Any:
            answered = [one for one in calls_with(provider, key_of(call)) if one.answered]
            return fake.hangs() if dying and len(answered) >= ANSWERED_BEFORE else None

        provider.becomes(knowing, act)
        caller = Caller(cluster.url, provider)
        with caller.client:
            ours = half_done(caller, provider, state, OWN_KEY, 1)
            theirs = half_done(caller, provider, state, KEY, 2, openrouterKey=KEY)
            before = {job_id: caller.results(job_id) for job_id in (ours, theirs)}

        assert {"gcs_server", "raylet"} < cluster.kill()
        provider.until(lambda it: it.in_flight == 0)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{cluster.url}/health", timeout=5)
        dying = False
        cluster.start()

        caller = Caller(cluster.url, provider)
        with caller.client:
            assert caller.follow(ours)[-1]["data"]["status"] == "succeeded"  # nobody asked for it again
            check_to_the_end(caller, provider, state, ours, OWN_KEY)
            caller.follow(theirs, until="paused_key")
            assert caller.state(theirs)["status"] == "paused_key"
            assert sum(call.answered for call in calls_with(provider, KEY)) == ANSWERED_BEFORE
            assert caller.ask("POST", f"/{theirs}/resume", {"openrouterKey": KEY}).status_code == 200
            assert caller.follow(theirs)[-1]["data"]["status"] == "succeeded"
            check_to_the_end(caller, provider, state, theirs, KEY)
            for job_id, lines in before.items():
                assert lines
                assert caller.results(job_id)[: len(lines)] == lines
