"""What runs inside vLLM's workers: `worker_extension_cls` of every engine that steers.

vLLM mixes `SteeringExtension` into its worker's bases, which lets the engine call its methods on every rank but not
override the worker's own. The hooks, however, must be in place right after the model is loaded: memory is profiled and
graphs are captured next. So importing this module, which vLLM does in each worker process just before it builds the
worker, wraps `Worker.load_model`. Nothing else imports it.
"""

from functools import wraps
from typing import Any

import torch
from vllm.triton_utils import HAS_TRITON
from vllm.v1.worker.gpu_worker import Worker

from core.steerer import op, runner_v1, runner_v2
from core.steerer.roster import Roster
from core.steerer.seams import require_parameters
from core.steerer.settings import CONFIG_KEY
from core.steerer.sites import hook_sites
from core.steerer.tables import Tables, TableSizes


class SteeringExtension:
    """Methods that the engine calls on every rank by name."""

    rank: int  # the worker's
    steer_tables: Tables
    steer_roster: Roster
    steer_runner: str
    steer_operation: torch.library.Library

    def steer_put_vectors(self, uploads: list[tuple[int, str, bytes]]) -> None:
        """Stores directions: row, digest, float32 bytes."""
        for row, digest, content in uploads:
            self.steer_roster.put_vector(row, digest, content)

    def steer_collect(self, key: int, rows: list[int], every_rank: bool) -> bytes | None:
        """Ends a reading and returns its sums `[rows, 2, width]`, float32 bytes, from rank 0 unless all are asked."""
        self.steer_roster.finish_reading(key)
        if not every_rank and self.rank != 0:
            return None
        return self.steer_tables.sums[torch.tensor(rows, device=self.steer_tables.sums.device)].cpu().numpy().tobytes()

    def steer_report(self) -> dict[str, Any]:
        """Who is steered or read at the moment, how many requests could not be, and which runner this is."""
        return {
            "sequences": list(self.steer_roster.sequences),
            "faults": self.steer_roster.faults,
            "runner": self.steer_runner,
        }


def install(worker: Any) -> None:
    """Builds the tables of a worker that has loaded its model, and hooks the model.

    Raises:
        RuntimeError: The model or this vLLM is not one that steering was tested with.
    """
    runner = worker.model_runner
    config = worker.vllm_config
    wanted: dict[str, Any] = config.additional_config[CONFIG_KEY]
    version = runner_v2 if hasattr(runner, "model_state") else runner_v1
    text_config = config.model_config.hf_text_config
    sizes = TableSizes(
        rows=config.scheduler_config.max_num_batched_tokens,
        slots=config.scheduler_config.max_num_seqs,
        positions=config.model_config.max_model_len,
        sites=text_config.num_hidden_layers + 1,
        operators=wanted["operators_per_site"],
        vectors=wanted["max_vectors"],
        segments=wanted["max_segments"],
        width=config.model_config.get_hidden_size(),
    )
    tables = Tables.allocate(sizes, version.positions_of(runner))
    roster = Roster(tables, wanted["sites"])
    if HAS_TRITON:
        from core.steerer.kernel import TritonSteering

        worker.steer_operation = op.register(TritonSteering(tables))
    else:
        worker.steer_operation = op.register(op.TorchSteering(tables))
    hook_sites(runner.get_model(), wanted["sites"])
    version.attach(runner, roster)
    worker.steer_runner = "v2" if version is runner_v2 else "v1"
    worker.steer_tables = tables
    worker.steer_roster = roster


def _install_after_loading() -> None:
    load = Worker.load_model
    require_parameters(load, "self", "load_dummy_weights")

    @wraps(load)
    def load_and_install(self: Any, *, load_dummy_weights: bool = False) -> None:
        load(self, load_dummy_weights=load_dummy_weights)
        install(self)

    Worker.load_model = load_and_install


_install_after_loading()
