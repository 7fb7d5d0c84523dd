"""What a piece of work cost is told by the process that did it."""

import mmap
import sys
import time

import pytest

from core.graph.circuit_tracer.worker.meter import Meter

MB = 2**20


def test_time_is_that_of_the_block():
    with Meter() as meter:
        began_s = time.process_time()
        while time.process_time() - began_s < 0.05:
            pass
    # Two clocks, which need not agree to the last tick.
    assert meter.cost["wall_s"] >= 0.045
    assert meter.cost["cpu_s"] >= 0.045


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told apart on Linux only")
def test_memory_that_was_given_back_is_seen_and_forgotten_by_the_next_one():
    with Meter() as large, mmap.mmap(-1, 64 * MB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.write(b"x" * (64 * MB))
    with Meter() as small:
        pass
    assert large.cost["peak_bytes"] - large.cost["before_bytes"] > 60 * MB
    assert small.cost["peak_bytes"] < large.cost["peak_bytes"] - 60 * MB
