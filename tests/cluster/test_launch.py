"""`rayscope serve` as a new user runs it: it says when it is ready, answers, and stops when interrupted."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest
import yaml

from tests.ray_testing import free_port

ROOT = Path(__file__).parents[2]


def run(config: Path, temp: str) -> "subprocess.Popen[str]":
    command = [str(Path(sys.executable).with_name("rayscope")), "serve", "--config", str(config)]
    environment = os.environ | {"RAY_TMPDIR": temp, "RAY_TEMP_DIR": temp, "COLUMNS": "200"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_the_demo_comes_up_answers_and_stops(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    port = config["http_options"]["port"] = free_port()
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as temp:
        process = run(path, temp)
        assert process.stdout is not None
        shown: list[str] = []
        for line in process.stdout:
            shown.append(line)
            if "Stop with Ctrl-C" in line:
                break
        text = "".join(shown)
        assert f"http://127.0.0.1:{port}/docs" in text, text
        assert "get-auth-token" in text
        body = {"prompt": "Le chat dort", "model": "rayscope-demo", "source": "2-res-demo", "index": "1"}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/activation/single", json=body, timeout=60)
        assert answer.status_code == 200
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/health", timeout=5)


def test_a_model_that_cannot_be_had_ends_the_start_with_the_reason(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = free_port()
    config["applications"][1]["args"]["runners"] = [{"source_sets": ["res-nobody"]}]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as temp:
        process = run(path, temp)
        text, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "res-nobody" in text
    assert "Known sets: res-demo, att-demo" in text
    assert time.monotonic() - started_s < 240
