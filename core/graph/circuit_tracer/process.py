"""The process that runs circuit-tracer: started, asked one thing at a time, waited for, and ended.

It has its own interpreter and packages, and talks in lines of JSON (`worker/__main__.py`). It ends when its stdin is
closed, which the kernel does for an owner that was killed. When an answer takes too long it is killed, because there is
no other way to stop circuit-tracer.
"""

import json
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from core.errors import DeadlineExceeded, RayscopeError, Unavailable

ENVIRONMENT_VARIABLE = "RAYSCOPE_CIRCUIT_TRACER_PYTHON"
"""Names the interpreter of circuit-tracer's environment."""

_MISSING_HINT = f"Run `make oracle` and set {ENVIRONMENT_VARIABLE} to .venv-oracle/bin/python."
_TAIL = 2000


def interpreter() -> Path:
    """The interpreter that the environment names.

    Raises:
        Unavailable: None is named.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if not named:
        raise Unavailable("circuit-tracer's environment is not known", _MISSING_HINT)
    return Path(named)


class WorkerProcess:
    """One process, alive until `close`, the end of its owner or an answer that is late.

    Calls may come from several threads and take turns.
    """

    def __init__(self, command: Sequence[str | Path]) -> None:
        """Starts it; it imports its libraries while the caller does something else.

        Args:
            command: The interpreter of its environment, and what that runs.

        Raises:
            Unavailable: There is no such interpreter.
        """
        self._turn = threading.Lock()
        self._replies: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        # What points a Python at packages points at those of this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
                text=True,
            )
        except OSError as error:
            self._log.close()
            raise Unavailable(f"circuit-tracer's interpreter does not start: {error}", _MISSING_HINT) from None
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self._process.poll() is None

    def ask(self, do: str, *, timeout_s: float, **arguments: Any) -> dict[str, Any]:
        """Has it do something and returns its answer.

        Args:
            do: A command of `worker/__main__.py`.
            timeout_s: How long the answer may take, waiting for other threads' calls not counted.
            **arguments: Of the command.

        Raises:
            DeadlineExceeded: The answer was late. The process is gone.
            Unavailable: The process ended.
            RayscopeError: circuit-tracer failed. The process lives on.
        """
        with self._turn:
            try:
                self._input.write(json.dumps({"do": do, **arguments}) + "\n")
                self._input.flush()
                line = self._replies.get(timeout=timeout_s)
            except queue.Empty:
                self._kill()
                raise DeadlineExceeded(f"circuit-tracer has not finished to {do} in {timeout_s:g} s") from None
            except (OSError, ValueError):  # its end of the pipe, or ours, is closed
                line = None
            if line is None:
                raise Unavailable(f"circuit-tracer's process ended: {self._last_words()}", "Start another one.")
        reply = json.loads(line)
        if "error" in reply:
            raise RayscopeError(f"circuit-tracer failed to {do}: {reply['error']}")
        return reply["answer"]

    def close(self) -> None:
        """Ends it, also while another thread waits for its answer."""
        self._kill()
        with self._turn:
            with suppress(OSError):  # what was written to the dead is lost
                self._input.close()
            self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _input(self) -> Any:
        return self._process.stdin

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._replies.put(line)
        self._replies.put(None)

    def _last_words(self) -> str:
        if self._log.closed:
            return "it was closed"
        self._process.wait()
        length = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, length - _TAIL))
        return self._log.read().decode(errors="replace").strip() or f"exit status {self._process.returncode}"
