"""The canary sings while steering works and falls silent however it fails."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from core.deadline import Deadline
from core.errors import Unavailable
from core.generation.requests import Continuation, Growth, TokenScore
from core.steerer.admission import EngineFacts
from core.steerer.canary import check_steering
from core.steerer.readings import Means
from core.steering.operators import Intervention
from core.steering.specification import Floats

WIDTH = 16
Outcome = tuple[list[Growth], list[Means]]


class Engine:
    """As much of an engine as the canary sees: activations by site, and probabilities that depend on them.

    Args:
        dead_phase: Positions that are not steered, whatever is asked.
        dead_site: A site that is not steered.
        deaf: The model goes on as if nothing had been written.
        ranks_that_steer: Of two.
    """

    def __init__(
        self,
        dead_phase: str | None = None,
        dead_site: int | None = None,
        deaf: bool = False,
        ranks_that_steer: int = 2,
        max_segments: int = 256,
    ) -> None:
        self.facts = EngineFacts(3, WIDTH, 50, 64, frozenset(range(4)), 4)
        self.max_segments = max_segments
        self.sites: set[int] = set()
        self._dead = (dead_phase, dead_site)
        self._deaf = deaf
        self._ranks = ranks_that_steer

    async def inspect(
        self,
        continuation: Continuation,
        interventions: tuple[Intervention, ...],
        site: int,
        spans: Sequence[tuple[int, int]],
        deadline: Deadline,
        *,
        every_rank: bool,
    ) -> Outcome:
        assert every_rank
        plain = np.random.default_rng(site).standard_normal((len(spans), WIDTH)).astype(np.float32)
        steered = plain.copy()
        steering = continuation.steering
        if steering is not None:
            self.sites.add(site)
            n_prompt = len(continuation.prompt)
            rows = slice(0, n_prompt) if steering.positions == "prompt" else slice(n_prompt, None)
            if steering.positions != self._dead[0] and site != self._dead[1]:
                steered[rows] = self._capped(plain[rows], interventions)
        seen = plain if self._deaf else steered
        # Each generated token depends on the rows before it.
        ends = range(len(continuation.prompt), len(spans) + 1)
        scores = tuple(TokenScore(float(seen[:end].sum()), ()) for end in ends)
        ranks = [Means(plain, steered if rank < self._ranks else plain) for rank in range(2)]
        return [Growth(0, tuple(range(len(scores))), scores, "length")], ranks

    @staticmethod
    def _capped(x: Floats, interventions: tuple[Intervention, ...]) -> Floats:
        (intervention,) = interventions
        operator = intervention.operator
        low, high = operator.coefficients[3:]
        along = x @ operator.read
        return x + (np.clip(along, low, high) - along)[:, None] * operator.write


def check(engine: Engine) -> None:
    asyncio.run(check_steering(engine))  # pyright: ignore[reportArgumentType]


def test_an_engine_that_steers_passes_and_all_its_sites_were_tried() -> None:
    engine = Engine()
    check(engine)
    assert engine.sites == {0, 1, 2, 3}


def test_sites_are_tried_in_groups_when_few_spans_can_be_read() -> None:
    engine = Engine(max_segments=12)
    check(engine)
    assert engine.sites == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "broken",
    [
        Engine(dead_phase="prompt"),
        Engine(dead_phase="generated"),
        Engine(dead_site=0),
        Engine(dead_site=3),
        Engine(deaf=True),
        Engine(ranks_that_steer=1),
    ],
    ids=["prefill", "decoding", "first site", "last site", "result ignored", "one rank"],
)
def test_an_engine_that_does_not_steer_somewhere_is_refused(broken: Engine) -> None:
    with pytest.raises(Unavailable, match="no effect"):
        check(broken)
