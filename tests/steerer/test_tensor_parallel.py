"""Two workers that share the model: both steer, alike."""

from collections.abc import Iterator

import numpy as np
import pytest

from core.steering.specification import HookPlace, Method
from tests.steerer.truth import Case, Write, tokens
from tests.steerer.world import VOCABULARY, WIDTH, World, deadline, save_llama, world


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = save_llama(tmp_path_factory.mktemp("llama"))
    with world(folder, tensor_parallel_size=2, environ={"VLLM_CPU_OMP_THREADS_BIND": "0|1"}) as running:
        yield running


def test_a_mixed_batch_writes_what_plain_hugging_face_with_hooks_writes(llama: World) -> None:
    llama.check(llama.mixture())


def test_both_workers_hold_the_same_steered_activations(llama: World) -> None:
    rng = np.random.default_rng(3)
    vector = rng.standard_normal(WIDTH).astype(np.float32)
    write = Write(HookPlace(1, "resid_post"), Method.ORTHOGONAL_DECOMP, vector, -2.0)
    case = Case(tokens(rng, 30, VOCABULARY), (write,), max_tokens=4)
    spans = [(position, position + 1) for position in range(33)]
    _, ranks = llama.run(
        llama.engine.inspect(case.continuation, case.interventions, 2, spans, deadline(), every_rank=True)
    )
    assert len(ranks) == 2
    np.testing.assert_array_equal(ranks[0].after, ranks[1].after)
    np.testing.assert_allclose(ranks[0].after, llama.truth.write(case).after[2], atol=1e-4)
