"""Attachment to vLLM's first model runner, which serves where Triton is missing: on CPUs.

vLLM calls it deprecated. On GPUs the second one runs, see `runner_v2`.
"""

from typing import Any

from core.steerer.roster import Roster
from core.steerer.seams import require_attributes, require_parameters


def attach(runner: Any, roster: Roster) -> None:
    """Lets the roster follow the runner's steps.

    Raises:
        RuntimeError: The runner is not as it was when this was tested.
    """
    base = type(runner)
    require_parameters(base._update_states, "self", "scheduler_output")
    require_parameters(base._prepare_inputs, "self", "scheduler_output", "num_scheduled_tokens")
    require_attributes(runner, "input_batch", "positions")
    require_attributes(runner.input_batch, "req_ids", "num_computed_tokens_cpu")

    class SteeredRunner(base):  # pyright: ignore[reportUntypedBaseClass] - known only when vLLM has chosen it
        """The runner, followed by a roster."""

        def _update_states(self, scheduler_output: Any) -> Any:
            for name in scheduler_output.finished_req_ids:
                roster.release(name)
            result = super()._update_states(scheduler_output)
            for request in scheduler_output.scheduled_new_reqs:
                if request.sampling_params is not None:
                    roster.admit(request.req_id, request.prompt_len, request.sampling_params.extra_args)
            return result

        def _prepare_inputs(self, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
            result = super()._prepare_inputs(scheduler_output, num_scheduled_tokens)
            batch = self.input_batch
            roster.lay_out(batch.req_ids, num_scheduled_tokens, batch.num_computed_tokens_cpu)
            return result

    runner.__class__ = SteeredRunner


def positions_of(runner: Any) -> Any:
    """The runner's persistent buffer of absolute positions."""
    require_attributes(runner, "positions")
    return runner.positions
