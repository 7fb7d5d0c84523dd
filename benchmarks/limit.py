"""The limit (c): what the computation itself costs on this machine. No HTTP, no queue, no Ray.

The plain Hugging Face forward, stopped where the activation is read, and the encoding; one process, torch's own number
of threads. `single` is given both ways: one column encoded (`column`, the harder limit), and all of them (`whole`).

    python -m benchmarks.limit SECONDS ROUTE...
"""

from typing import Any

import torch

from benchmarks.computation import Computation, load_saes
from benchmarks.timing import report, time_routes

_REPO = "openai-community/gpt2"


class _Stop(Exception):
    """The deepest activation has been read."""


class StoppedForward:
    """Reads the residual stream before some blocks of GPT-2 and runs no further."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._blocks = model.transformer.h

    def __call__(self, ids: torch.Tensor, layers: tuple[int, ...]) -> dict[int, torch.Tensor]:
        """Activations `{layer: [batch, pos, d]}`."""
        found: dict[int, torch.Tensor] = {}
        deepest = max(layers)

        def keep(layer: int, activation: torch.Tensor) -> None:
            found[layer] = activation
            if layer == deepest:
                raise _Stop

        handles = [
            self._blocks[layer].register_forward_pre_hook(lambda _, args, layer=layer: keep(layer, args[0]))
            for layer in layers
        ]
        try:
            self._model(input_ids=ids, use_cache=False)
        except _Stop:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return found


def measure(routes: list[str], seconds: float) -> dict[str, Any]:
    """Times the routes with one column and with whole encodings."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    forward = StoppedForward(AutoModelForCausalLM.from_pretrained(_REPO).eval())
    tokenizer = AutoTokenizer.from_pretrained(_REPO)
    computation = Computation(load_saes(), forward)
    column = time_routes(computation, tokenizer, routes, seconds, whole=False)
    whole = time_routes(computation, tokenizer, [name for name in routes if name == "single"], seconds, whole=True)
    return {"threads": torch.get_num_threads(), "column": column, "whole": whole}


if __name__ == "__main__":
    report(measure)
