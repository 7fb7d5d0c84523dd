"""`rayscope autointerp` as a new user runs it: in a process of its own, on the demo, interrupted and gone on with."""

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.autointerp.language_model import Ask, ChatMessage
from core.demo.oracle.answers import answer
from core.demo.oracle.questions import read_question
from tests.unit.autointerp.fake_provider import Call, FakeProvider

pytestmark = pytest.mark.timeout(1200)  # each has two processes at most, which start slowly on a busy machine
LIMIT_S = 400
KEY = "sk-or-very-secret-0123456789"
SMALL = (
    "--hookpoints=1",
    "--n_tokens=24000",
    "--cache_ctx_len=64",
    "--min_examples=8",
    "--n_examples_train=10",
    "--n_examples_test=10",
    "--n_non_activating=10",
)
# As the README has it, over fewer tokens.
WHOLE = (
    "--max_features=10",
    "--random_explanations",
    "--n_tokens=60000",
    "--cache_ctx_len=256",
    "--min_examples=20",
    "--n_examples_train=40",
    "--n_examples_test=50",
    "--n_non_activating=50",
)


def command(folder: Path, *flags: str) -> list[str]:
    rayscope = str(Path(sys.executable).with_name("rayscope"))
    return [rayscope, "autointerp", "run", "rayscope-demo", "res-demo", "--results", str(folder), *SMALL, *flags]


def environment(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("OPENROUTER_API_KEY", "SECRET")}
    return inherited | {"COLUMNS": "140", "OMP_NUM_THREADS": "1", **more}


def run(arguments: list[str], **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        arguments, env=environment(**more), text=True, capture_output=True, timeout=LIMIT_S, check=False
    )


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.ndjson").read_text(encoding="utf-8").splitlines()]


def units(folder: Path, question: str) -> Any:
    """The first field of the first row of an answer; None while there is no such file or table."""
    try:
        connection = sqlite3.connect(f"file:{folder / 'jobs.sqlite'}?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(question).fetchone()[0]
        finally:
            connection.close()
    except sqlite3.OperationalError:
        return None


def until(process: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    """Waits for a condition while a process lives."""
    ends_s = time.monotonic() + LIMIT_S
    while not condition():
        if process.poll() is not None or time.monotonic() > ends_s:
            raise AssertionError(process.communicate()[0])
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    folder = tmp_path_factory.mktemp("results")
    done = run(command(folder, *WHOLE))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "rayscope-demo-res-demo", done


def test_ten_features_are_explained_and_scored_without_a_key(
    finished: tuple[Path, "subprocess.CompletedProcess[str]"],
) -> None:
    folder, done = finished
    found = lines(folder)
    explained = [line for line in found if line["kind"] == "explain"]
    assert len(explained) == 10
    assert sum(line["state"] == "done" for line in explained) >= 8  # not every feature fires often enough
    assert all((line["state"] == "done") == bool(line["explanation"]) for line in explained)
    for scorer in ("fuzz", "detection"):
        values = [line["value"] for line in found if line["scorer"] == scorer and line["baseline"] is None]
        assert len(values) == 10
        numbers = [value for value in values if value is not None]
        assert len(numbers) >= 7
        others = [line["value"] for line in found if line["scorer"] == scorer and line["baseline"] is not None]
        random = [value for value in others if value is not None]
        assert sum(numbers) / len(numbers) > sum(random) / len(random) + 0.1
    assert "lower quartile" in done.stdout
    assert "Written:" in done.stderr


def test_pictures_are_pictures_and_the_page_has_them_inside(
    finished: tuple[Path, "subprocess.CompletedProcess[str]"],
) -> None:
    folder, _ = finished
    with Image.open(folder / "scores.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 300
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=\"http", page)
    for line in lines(folder):
        if line["explanation"] and "<" not in line["explanation"]:
            assert line["explanation"].replace("'", "&#x27;") in page


def test_markup_in_explanations_is_escaped(finished: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    """The demo has tokens such as `<|user|>`, which explanations name."""
    folder, _ = finished
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<\|[a-z]+\|>|<eos>", page)


def test_a_finished_run_is_shown_again_and_asks_nothing(
    finished: tuple[Path, "subprocess.CompletedProcess[str]"],
) -> None:
    folder, _ = finished
    before = lines(folder)
    again = run(command(folder.parent, *WHOLE))
    assert again.returncode == 0, again.stderr
    assert lines(folder) == before


def test_the_same_folder_takes_no_other_run(finished: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    folder, _ = finished
    other = run(command(folder.parent, *WHOLE, "--max_features=9"))
    assert other.returncode == 1
    assert "other settings" in other.stderr
    assert "Traceback" not in other.stderr


def test_a_run_is_reported_again_without_its_jobs(
    finished: tuple[Path, "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    folder, _ = finished
    for name in ("run.json", "results.ndjson"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    rayscope = str(Path(sys.executable).with_name("rayscope"))
    again = run([rayscope, "autointerp", "report", str(tmp_path)])
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "report.html").read_bytes() == (folder / "report.html").read_bytes()
    refused = run([rayscope, "autointerp", "report", str(tmp_path.parent)])
    assert refused.returncode == 1
    assert "is not the folder of a run" in refused.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, how: signal.Signals) -> None:
    folder = tmp_path / "rayscope-demo-res-demo"
    arguments = command(tmp_path, "--max_features=40")
    process = subprocess.Popen(
        arguments, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    until(process, lambda: (units(folder, "SELECT count(*) FROM results") or 0) >= 5)
    process.send_signal(how)
    output, _ = process.communicate(timeout=LIMIT_S)
    if how == signal.SIGINT:
        assert process.returncode == 130, output
        assert "goes on with it" in output
        assert "Traceback" not in output
    total = units(folder, "SELECT total FROM jobs")
    assert total == 120
    reached = units(folder, "SELECT count(*) FROM results")
    assert 5 <= reached < total
    parts = {path: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*.safetensors")}
    first = dict(sqlite3.connect(folder / "jobs.sqlite").execute("SELECT unit, at_s FROM results").fetchall())

    done = run(arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert units(folder, "SELECT count(*) FROM units WHERE state NOT IN ('done', 'failed', 'skipped')") == 0
    assert units(folder, "SELECT max(attempts) FROM units") <= 2
    again = dict(sqlite3.connect(folder / "jobs.sqlite").execute("SELECT unit, at_s FROM results").fetchall())
    assert first.items() <= again.items()  # what was done is not done again
    assert {path: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*.safetensors")} == parts
    assert (folder / "report.html").is_file()


def test_without_a_key_openrouter_is_not_asked(tmp_path: Path) -> None:
    refused = run(command(tmp_path, "--explainer_model=some/model", "--explainer_provider=openrouter"))
    assert refused.returncode == 1
    assert "Set OPENROUTER_API_KEY" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_model_that_is_not_here_is_not_asked_for_each_feature(tmp_path: Path) -> None:
    refused = run(command(tmp_path, "--explainer_model=some/model", "--explainer_provider=local"))
    assert refused.returncode == 1
    assert "There is no model 'some/model' here" in refused.stderr


def test_any_openai_compatible_address_explains_and_its_key_is_written_nowhere(tmp_path: Path) -> None:
    def told(call: Call) -> str:
        messages = tuple(ChatMessage(one["role"], one["content"]) for one in call.body["messages"])
        return answer(read_question(Ask(messages, 500))).text

    async def served() -> tuple["subprocess.CompletedProcess[str]", list[Call]]:
        async with FakeProvider(told, keys=frozenset((KEY,)), prices=(1e-6, 2e-6)) as provider:
            flags = ("--max_features=3", "--explainer_model=some/model", f"--base_url={provider.base_url}")
            done = await asyncio.to_thread(run, command(tmp_path, *flags), EXPLAINER_API_KEY=KEY)
            return done, provider.calls

    done, calls = asyncio.run(served())
    assert done.returncode == 0, done.stdout + done.stderr
    assert {call.body["model"] for call in calls} == {"some/model"}
    assert {call.headers["authorization"] for call in calls} == {f"Bearer {KEY}"}
    folder = tmp_path / "rayscope-demo-res-demo"
    found = lines(folder)
    assert sum(line["calls"] or 0 for line in found) == len(calls)
    assert re.search(r"cost: \$0\.\d*[1-9]", done.stdout)
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    assert KEY not in done.stdout + done.stderr
