"""A server under test: one process with all its descendants, started, waited for, weighed and stopped.

Memory is PSS: each page shared by several processes counts once. Walking page tables takes time, so it is read only
while the server starts and between measurements. A server is stopped by a signal to the process started here; whatever
of its descendants is left after that is ended one by one.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

_POLL_S = 0.25
_WEIGH_EVERY_S = 2.0
_STOP_TIMEOUT_S = 90.0
_START_TIMEOUT_S = 600.0
_LOG_TAIL = 30


class Server:
    """One server process tree, alive inside a `with` block.

    Attributes:
        url: Where it listens.
        start_s: Seconds from starting the process to its first answer.
        peak_pss_bytes: Largest memory seen so far.
        processes: Number of its processes when memory was largest.
    """

    def __init__(
        self, command: Sequence[str], url: str, first: tuple[str, dict[str, Any]], environment: Mapping[str, str]
    ) -> None:
        self._command = list(command)
        self._first = first
        self._environment = {**os.environ, **environment}
        self._seen: set[psutil.Process] = set()
        self.url = url
        self.start_s = 0.0
        self.peak_pss_bytes = 0
        self.processes = 0

    def __enter__(self) -> Self:
        """Starts it and waits until it answers the first request.

        Raises:
            RuntimeError: It ended, or did not answer in time.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="rs-", ignore_cleanup_errors=True)
        self._log = Path(self._folder.name) / "server.log"
        # Ray puts its sockets below this folder, and their paths must be short.
        self._environment["RAY_TMPDIR"] = self._folder.name
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # Background jobs of a shell ignore interrupts and would hand that on to the server.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        began_s = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._wait_for_answer(began_s)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stops it and everything that it started."""
        self._stop()

    def weigh(self) -> None:
        """Looks at the memory of all its processes now."""
        processes = self._tree()
        total = sum(_pss_bytes(process) for process in processes)
        if total > self.peak_pss_bytes:
            self.peak_pss_bytes, self.processes = total, len(processes)

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        """One request's answer.

        Raises:
            httpx.HTTPStatusError: It was refused.
        """
        return httpx.post(self.url + path, json=body, timeout=120).raise_for_status().json()

    def _wait_for_answer(self, began_s: float) -> None:
        path, body = self._first
        weighed_s = began_s
        while time.monotonic() - began_s < _START_TIMEOUT_S:
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with status {self._process.returncode}:\n{self._tail()}")
            try:
                self.answer(path, body)
                self.start_s = time.monotonic() - began_s
                self.weigh()
                return
            except httpx.HTTPError:
                if time.monotonic() - weighed_s > _WEIGH_EVERY_S:
                    self.weigh()
                    weighed_s = time.monotonic()
                time.sleep(_POLL_S)
        raise RuntimeError(f"the server did not answer:\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_LOG_TAIL:])

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._process.pid)
            found = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        self._seen.update(found)
        return found

    def _stop(self) -> None:
        self._tree()
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        left = [process for process in self._seen if process.is_running()]
        for process in psutil.wait_procs(left, timeout=10)[1]:
            process.kill()
        psutil.wait_procs(left, timeout=10)
        self._folder.cleanup()


def _pss_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
