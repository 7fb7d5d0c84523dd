"""Attachment to vLLM's second model runner, the one in production: through its model state.

A model state is the runner's own place for what a model adds to a step. It is told of every request that begins or
resumes and of every one that ends, is aborted or preempted, and prepares inputs right before every forward pass, dummy
ones included. Those carry invented request names, which no roster knows, so their rows are left alone.
"""

from typing import Any

from core.steerer.roster import Roster
from core.steerer.seams import require_attributes, require_parameters


def attach(runner: Any, roster: Roster) -> None:
    """Lets the roster follow the runner's steps.

    Raises:
        RuntimeError: The runner is not as it was when this was tested.
    """
    state = runner.model_state
    base = type(state)
    require_parameters(base.add_request, "self", "req_index", "new_req_data")
    require_parameters(base.remove_request, "self", "req_id")
    require_parameters(base.prepare_inputs, "self", "input_batch", "req_states")

    class SteeredModelState(base):  # pyright: ignore[reportUntypedBaseClass] - known only when vLLM has chosen it
        """The model's state, followed by a roster."""

        def add_request(self, req_index: int, new_req_data: Any) -> None:
            super().add_request(req_index, new_req_data)
            if new_req_data.sampling_params is not None:
                roster.admit(new_req_data.req_id, new_req_data.prompt_len, new_req_data.sampling_params.extra_args)

        def remove_request(self, req_id: str) -> None:
            super().remove_request(req_id)
            roster.release(req_id)

        def prepare_inputs(self, input_batch: Any, req_states: Any) -> Any:
            roster.lay_out(input_batch.req_ids, input_batch.num_scheduled_tokens, input_batch.num_computed_tokens_np)
            return super().prepare_inputs(input_batch, req_states)

    state.__class__ = SteeredModelState


def positions_of(runner: Any) -> Any:
    """The runner's persistent buffer of absolute positions."""
    require_attributes(runner, "input_buffers")
    require_attributes(runner.input_buffers, "positions")
    return runner.input_buffers.positions
