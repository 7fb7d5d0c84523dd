"""A cluster run from the command line: start `serve run`, say when it is ready and what to open, stop it cleanly."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console
from rich.panel import Panel

from core.errors import Unavailable

_POLL_S = 0.5
_STOP_TIMEOUT_S = 60
_FAILED = frozenset({"DEPLOY_FAILED", "UNHEALTHY"})


def launch(config: dict[str, Any], console: Console, *, start_timeout_s: float = 3600) -> int:
    """Runs the cluster until interrupted; returns the exit status.

    Raises:
        Unavailable: It did not come up.
    """
    with tempfile.TemporaryDirectory(prefix="rayscope-") as folder:
        path = Path(folder) / "serve_config.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        started_s = time.monotonic()
        serve = Path(sys.executable).with_name("serve")
        # A shell that puts this command into the background makes it, and so the server, deaf to interrupts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Its own process group: an interrupt reaches it from here, once, and not from the terminal as well.
        server = subprocess.Popen([str(serve), "run", str(path)], start_new_session=True)
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            with console.status("Starting the cluster ...") as status:
                _wait(server, config, status.update, start_timeout_s)
            console.print(_ready_panel(config, time.monotonic() - started_s))
            return server.wait()
        except KeyboardInterrupt:
            console.print("Stopping the cluster ...")
            return 0
        finally:
            _stop(server)


def base_url(config: dict[str, Any]) -> str:
    """Where the front door can be reached from this machine."""
    http = config.get("http_options") or {}
    host = http.get("host", "127.0.0.1")
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{http.get('port', 8000)}"


def _wait(
    server: "subprocess.Popen[bytes]", config: dict[str, Any], show: Callable[[str], None], timeout_s: float
) -> None:
    names = {application["name"] for application in config["applications"]}
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        if server.poll() is not None:
            raise Unavailable(f"`serve run` ended with status {server.returncode}.", "Its output above says why.")
        statuses = _statuses(base_url(config))
        failed = sorted(name for name, status in statuses.items() if status in _FAILED)
        if failed:
            raise Unavailable(f"These applications failed: {', '.join(failed)}.", "The output above says why.")
        waiting = sorted(name for name in names if statuses.get(name) != "RUNNING")
        if not waiting:
            return
        show(f"Starting {', '.join(waiting)} ...")
        time.sleep(_POLL_S)
    raise Unavailable(f"The cluster was not ready after {timeout_s:g} s.", "The output above may say why.")


def _statuses(url: str) -> dict[str, str]:
    try:
        return httpx.get(f"{url}/ready", timeout=5).json()["applications"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return {}


def _ready_panel(config: dict[str, Any], seconds: float) -> Panel:
    url = base_url(config)
    secret = "open to everyone who reaches it" if not os.environ.get("SECRET") else "send the secret as x-secret-key"
    return Panel(
        f"Ready after {seconds:.0f} s.\n\n"
        f"front door   {url}   ({secret})\n"
        f"try it       {url}/docs\n"
        f"models       {url}/v1/models\n"
        "dashboard    http://127.0.0.1:8265\n"
        "             its token: .venv/bin/ray get-auth-token\n\n"
        "Stop with Ctrl-C.",
        title="Rayscope",
        expand=False,
    )


def _interrupt(_: int, __: object) -> None:
    raise KeyboardInterrupt


def _stop(server: "subprocess.Popen[bytes]") -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
