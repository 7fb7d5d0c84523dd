"""A process in another environment answers, fails, is late and ends; none outlives its owner."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.errors import DeadlineExceeded, RayscopeError, Unavailable
from core.graph.circuit_tracer.process import ENVIRONMENT_VARIABLE, WorkerProcess, interpreter

ECHO = """
import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    if message["do"] == "echo":
        reply = {"answer": message}
    elif message["do"] == "fail":
        reply = {"error": "ValueError: no such model"}
    elif message["do"] == "end":
        sys.exit("out of words")
    elif message["do"] == "environment":
        reply = {"answer": {"pythons": [name for name in os.environ if name.startswith("PYTHON")]}}
    else:
        continue
    print(json.dumps(reply), flush=True)
"""

Start = Callable[[str], WorkerProcess]


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[WorkerProcess]:
    script = tmp_path / "echo.py"
    script.write_text(ECHO)
    with WorkerProcess([sys.executable, script]) as process:
        yield process


def test_answers_come_in_order(echo: WorkerProcess):
    for number in range(3):
        assert echo.ask("echo", timeout_s=60, number=number) == {"do": "echo", "number": number}


def test_a_failure_is_told_and_survived(echo: WorkerProcess):
    with pytest.raises(RayscopeError, match="failed to fail: ValueError: no such model"):
        echo.ask("fail", timeout_s=60)
    assert echo.alive
    assert echo.ask("echo", timeout_s=60) == {"do": "echo"}


def test_a_process_that_is_late_is_gone(echo: WorkerProcess):
    with pytest.raises(DeadlineExceeded, match=r"not finished to sleep in 0\.1 s"):
        echo.ask("sleep", timeout_s=0.1)
    assert not echo.alive
    with pytest.raises(Unavailable):
        echo.ask("echo", timeout_s=60)


def test_a_process_that_ends_says_why(echo: WorkerProcess):
    with pytest.raises(Unavailable, match="out of words"):
        echo.ask("end", timeout_s=60)


def test_closing_ends_a_call_under_way(echo: WorkerProcess):
    errors: list[Exception] = []
    asked = threading.Event()

    def ask() -> None:
        asked.set()
        try:
            echo.ask("sleep", timeout_s=60)
        except Unavailable as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    asked.wait()
    echo.close()
    thread.join(60)
    assert len(errors) == 1
    assert not echo.alive


def test_the_other_environment_is_not_pointed_at_ours(echo: WorkerProcess, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    with WorkerProcess([sys.executable, "-c", ECHO]) as process:
        assert process.ask("environment", timeout_s=60) == {"pythons": []}


def test_an_interpreter_that_is_not_there_is_said_so(tmp_path: Path):
    with pytest.raises(Unavailable, match="does not start") as error:
        WorkerProcess([tmp_path / "python"])
    assert "make oracle" in (error.value.hint or "")


def test_the_interpreter_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "/somewhere/python")
    assert interpreter() == Path("/somewhere/python")
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    with pytest.raises(Unavailable) as error:
        interpreter()
    assert "make oracle" in (error.value.hint or "")
