"""The operation at a residual site, in both its forms."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from core.steerer.op import TorchSteering, register
from tests.unit.steerer.steps import Sequence, Worker, check_against_float64, check_readings, operators


def test_every_row_is_steered_as_its_sequence_asks_and_others_keep_every_bit() -> None:
    check_against_float64(TorchSteering, range(30))


def test_readings_sum_each_position_once_before_and_after_steering() -> None:
    check_readings(TorchSteering)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_does_the_same() -> None:
    """In Triton's interpreter, which has to be chosen before Triton is imported: hence another process."""
    code = (
        "from core.steerer.kernel import TritonSteering as T;"
        "from tests.unit.steerer.steps import check_against_float64 as c, check_readings as r;"
        "c(T, range(12)); r(T)"
    )
    environ = {**os.environ, "TRITON_INTERPRET": "1"}
    root = Path(__file__).parents[3]
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environ, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_the_registered_operation_changes_its_argument_in_place() -> None:
    worker = Worker()
    (add, *_) = operators(np.random.default_rng(0))
    worker.admit("a", Sequence(4, 0, 4, [(2, add)]))
    worker.lay_out({"a": Sequence(4, 0, 4)})
    registration = register(TorchSteering(worker.tables))
    hidden = torch.zeros(4, add.read.shape[0])
    torch.ops.rayscope.steer(hidden, None, 2)
    np.testing.assert_allclose(hidden.numpy(), np.tile(1.7 * add.write, (4, 1)), atol=1e-6)
    del registration


def test_half_precision_rounds_once() -> None:
    worker = Worker()
    (add, *_) = operators(np.random.default_rng(0))
    worker.admit("a", Sequence(4, 0, 1, [(0, add)]))
    worker.lay_out({"a": Sequence(4, 0, 1)})
    hidden = torch.full((1, add.read.shape[0]), 0.3, dtype=torch.bfloat16)
    residual = torch.full_like(hidden, 100.0)
    wanted = (hidden.float() + 1.7 * torch.from_numpy(add.write)).to(torch.bfloat16)
    TorchSteering(worker.tables)(hidden, residual, 0)
    torch.testing.assert_close(hidden, wanted, atol=1e-2, rtol=1e-2)


def test_a_slot_or_a_direction_that_changes_counts_from_the_next_step() -> None:
    worker = Worker()
    first, *_ = operators(np.random.default_rng(0))
    steering = TorchSteering(worker.tables)

    def change() -> np.ndarray:
        worker.lay_out({"a": Sequence(4, 0, 4)})
        hidden = torch.zeros(4, first.read.shape[0])
        steering(hidden, None, 2)
        return hidden.numpy()

    worker.admit("a", Sequence(4, 0, 4, [(2, first)]))
    np.testing.assert_allclose(change(), np.tile(1.7 * first.write, (4, 1)), atol=1e-6)
    row = int(worker.tables.vector_rows[worker.tables.row_slot[0], 2, 0, 1])
    worker.tables.write_vector(row, (-first.write).astype(np.float32).tobytes())
    np.testing.assert_allclose(change(), np.tile(-1.7 * first.write, (4, 1)), atol=1e-6)
    worker.roster.release("a")
    worker.admit("a", Sequence(4, 0, 4, [(1, first)]))
    assert not change().any()
