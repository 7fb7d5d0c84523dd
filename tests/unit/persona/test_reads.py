"""A caller's own directions: what is asked, what is refused before a device hears of it, and the values."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from core.engine.shape import ModelShape
from core.errors import InvalidRequest
from core.persona.reads import read_questions, read_results
from core.questions import DirectionAnswer
from core.readings.batch import answer_batch
from core.wire.vector_reads import MAX_READS, VectorRead
from tests.gpt2_with_saes import Gpt2WithSaes
from tests.tiny_models import D_MODEL

IDS = (0, 17, 230, 9, 9, 311, 42, 0, 5)
BOUNDS = ((0, 4), (4, 6), (6, 9))
HOOK = "blocks.3.hook_resid_post"


def vector(seed: int, width: int = D_MODEL) -> list[float]:
    return np.random.default_rng(seed).normal(size=width).tolist()


def read(**changes: Any) -> VectorRead:
    return VectorRead.model_validate({"name": "mine", "hook": HOOK, "direction": vector(1)} | changes)


def shape(world: Gpt2WithSaes) -> ModelShape:
    return world.eager.shape


def test_every_way_to_read_is_the_formula(world: Gpt2WithSaes) -> None:
    centre = vector(2)
    reads = [
        read(name=f"{pooling} {over} {normalize} {centred}", pooling=pooling, over=over, normalize=normalize)
        if not centred
        else read(
            name=f"{pooling} {over} {normalize} {centred}",
            pooling=pooling,
            over=over,
            normalize=normalize,
            centre=centre,
        )
        for pooling in ("mean", "last", "max")
        for over in ("message", "prompt", "all")
        for normalize in ("none", "l2")
        for centred in (False, True)
    ][:MAX_READS]
    questions = read_questions(reads, shape(world), IDS, BOUNDS)
    found = read_results(reads, answer_batch(world.eager, [(question, {}) for question in questions]))
    rows = world.truth.activation(IDS, HOOK).double().numpy()
    direction = np.array(vector(1))
    for asked, result in zip(reads, found, strict=True):
        spans = {"message": BOUNDS, "prompt": ((0, 6),), "all": ((0, 9),)}[asked.over]
        wanted: list[float] = []
        for start, end in spans:
            pooled = {"mean": rows[start:end].mean(0)[None], "last": rows[end - 1][None], "max": rows[start:end]}
            shifted = pooled[asked.pooling] - (np.zeros(D_MODEL) if asked.centre is None else np.array(asked.centre))
            if asked.normalize == "l2":
                shifted = shifted / np.sqrt((shifted**2).sum(-1, keepdims=True))
            wanted.append(float((shifted @ direction).max()))
        assert result.name == asked.name
        np.testing.assert_allclose(result.values, wanted, rtol=2e-4, atol=2e-4)


def test_a_short_hook_name_is_the_long_one(world: Gpt2WithSaes) -> None:
    (question,) = read_questions([read(hook="resid_post.3")], shape(world), IDS, BOUNDS)
    assert question.hook_name == HOOK


def test_a_wide_hook_point_takes_a_wide_direction() -> None:
    wide = ModelShape(n_layers=2, n_heads=3, n_kv_heads=3, head_dim=4, d_model=8, vocab_size=9, max_positions=16)
    asked = read(hook="blocks.1.attn.hook_z", direction=vector(1, 12))
    assert len(read_questions([asked], wide, IDS, BOUNDS)[0].direction) == 12
    with pytest.raises(InvalidRequest, match=r"has 8 numbers but blocks\.1\.attn\.hook_z has width 12"):
        read_questions([read(hook="blocks.1.attn.hook_z", direction=vector(1, 8))], wide, IDS, BOUNDS)


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        ([read()] * 2, "names 'mine' twice"),
        ([read(name=str(n)) for n in range(MAX_READS + 1)], "has 33 entries, max is 32"),
        ([read(centre=[1.0])], "The centre of 'mine' has 1 numbers"),
        ([read(direction=[0.0] * D_MODEL)], "is zero"),
        ([read(direction=vector(1, 3))], "has 3 numbers but blocks.3.hook_resid_post has width"),
        ([read(hook="blocks.12.hook_resid_post")], r"Invalid layer: 12. Must be in \[0, 12\)"),
        ([read(hook="ln_final.hook_normalized")], "Unsupported hook name"),
    ],
)
def test_a_wrong_read_is_refused_with_the_reason(world: Gpt2WithSaes, reads: list[VectorRead], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_questions(reads, shape(world), IDS, BOUNDS)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"direction": []},
        {"direction": [float("nan")]},
        {"direction": ["1"]},
        {"pooling": "sum"},
        {"over": "token"},
        {"normalize": "l1"},
        {"centre": [float("inf")]},
    ],
)
def test_a_malformed_read_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read(**changes)


def test_results_keep_the_order_of_the_request() -> None:
    reads = [read(name="b"), read(name="a")]
    answers = [DirectionAnswer(np.array([1.0, 2.0], np.float32)), DirectionAnswer(np.array([3.0], np.float32))]
    found = read_results(reads, answers)
    assert [(result.name, result.values) for result in found] == [("b", [1.0, 2.0]), ("a", [3.0])]
