"""The real worker ends when it must."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from core.deadline import Deadline
from core.errors import DeadlineExceeded
from core.graph.circuit_tracer.engine import CircuitTracer, Settings
from core.graph.circuit_tracer.graphs import CircuitTracerGraphs
from core.graph.effects import Effects
from core.graph.requests import AttributionOptions, GraphPrompt

from .worlds import MLP, PROMPT, Case, MakeWorld

_OWNER = """
import sys
from pathlib import Path
from core.graph.circuit_tracer.engine import CircuitTracer
tracer = CircuitTracer(Path(sys.argv[1]), timeout_s=60)
print(tracer._worker._process.pid, flush=True)
sys.stdin.read()
"""


def test_a_worker_does_not_outlive_its_owner(oracle_python: Path):
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, oracle_python], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    worker = psutil.Process(int(owner.stdout.readline()))
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    psutil.wait_procs([worker], timeout=60)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_a_graph_that_is_late_takes_the_worker_with_it(oracle_python: Path, world: MakeWorld):
    tiny = world(Case("llama", "relu", "nnsight", *MLP))
    with CircuitTracer(oracle_python, timeout_s=300, threads=1) as tracer:
        tiny.load_into(tracer)
        tracer._timeout_s = 0.001
        with pytest.raises(DeadlineExceeded):
            tracer.attribute(PROMPT, Settings())
        assert not tracer.alive


def test_graphs_go_on_after_one_that_nobody_waited_for(oracle_python: Path, world: MakeWorld):
    tiny = world(Case("llama", "relu", "nnsight", *MLP))
    options = AttributionOptions(max_feature_nodes=20)

    async def scenario() -> Effects:
        graphs = await CircuitTracerGraphs.start(
            str(oracle_python), tiny.model_folder, tiny.transcoder_folder, update_interval=1000
        )
        try:
            with pytest.raises(DeadlineExceeded):
                await graphs.attribute(GraphPrompt(PROMPT, 1), options, Deadline.after(0.001))
            assert graphs.alive
            return await graphs.attribute(GraphPrompt(PROMPT, 1), options, Deadline.after(300))
        finally:
            graphs.close()

    theirs = asyncio.run(scenario())
    ours = tiny.effects("replay", Settings(max_feature_nodes=20, update_interval=1000))
    assert (theirs.weights - ours.weights).abs().max() <= 1e-5 * ours.weights.abs().max()
