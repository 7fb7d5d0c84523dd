"""The model runner and the kernel of production, on a CPU: in Triton's interpreter, in a process of their own."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_second_runner_with_the_kernel_steers_as_plain_hugging_face_with_hooks() -> None:
    path = os.pathsep.join([str(Path(__file__).parent / "interpreted_triton"), os.environ.get("PYTHONPATH", "")])
    environ = {**os.environ, "PYTHONPATH": path, "TORCHDYNAMO_DISABLE": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.steerer.second_runner"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-6000:]
