"""Mean activations of a written text, read as it was steered."""

import asyncio
import copy
from typing import Any

import numpy as np
import pytest
import torch

from core.deadline import Deadline
from core.generation.requests import MeansRequest
from core.questions import Floats
from core.steering.specification import HookPlace
from tests.unit.engine.families import FAMILIES, hf_model
from tests.unit.generation.test_engine import prompt, vector
from tests.unit.generation.truth import Bend, Case, bent
from tests.unit.generation.world import engine_of, request_of

TEXT = prompt(1, 14)
N_PROMPT = 6
SPANS = ((0, 4), (4, 4), (5, 14))


def expected(bend: Bend, where: list[int]) -> np.ndarray:
    """Means after block 2 of the plain model in float64, bent after block 1 at the positions `where`."""
    model: Any = copy.deepcopy(hf_model("llama", "eager")).double()
    kept: list[torch.Tensor] = []

    def bending(_: Any, __: Any, output: Any) -> Any:
        h = output[0] if isinstance(output, tuple) else output
        changed = h.clone()
        changed[0, where] = bent(h[0], bend)[where]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    blocks = model.get_submodule(FAMILIES["llama"].blocks)
    handles = [
        blocks[1].register_forward_hook(bending),
        blocks[2].register_forward_hook(lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out)),
    ]
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([TEXT]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    x = kept[0][0].numpy()
    return np.stack([x[start:end].mean(0) if end > start else np.zeros(x.shape[1]) for start, end in SPANS])


@pytest.mark.parametrize(
    ("positions", "where"),
    [
        ("all", [*range(1, 3), *range(4, 14)]),
        ("prompt", [1, 2, 4, 5]),
        ("generated", list(range(6, 14))),
        (None, []),
    ],
)
def test_means_are_those_of_the_steered_model(positions: str | None, where: list[int]) -> None:
    bend = Bend(1, "resid_post", "SIMPLE_ADDITIVE", vector(4), 3.0)
    spared = frozenset({0, 3})
    case = Case(TEXT[:N_PROMPT], (bend,) if positions else (), positions or "all", spared)

    async def main() -> Floats:
        async with engine_of("llama") as engine:
            place = HookPlace(2, "resid_post")
            request = MeansRequest(request_of(case, 1), TEXT, place, SPANS)
            return await engine.read_means(request, Deadline.after(30))

    np.testing.assert_allclose(asyncio.run(main()), expected(bend, where), atol=1e-4)
