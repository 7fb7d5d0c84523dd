"""The canary: proof, on the running engine, that steering does what it says.

A change of vLLM, of a compile cache or of graph capture can make steering do nothing, silently, and the model then
answers as if nobody had asked. So at start and from time to time every site is capped to one value along a random
direction, once on the rows of the prompt and once on the rows of decoding steps, and on every rank

    what is left along the direction is that value     the operation ran, with this request's numbers
    the next token's probability changed               the model went on with what the operation left

An engine that fails either has to be replaced.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from core.deadline import Deadline
from core.errors import Unavailable
from core.generation.requests import Continuation, Growth, Sampling
from core.steerer.readings import Means
from core.steering.operators import Intervention, Operator
from core.steering.specification import Floats, HookPlace, Method, Positions, Push, Steering, VectorDirection

if TYPE_CHECKING:
    from core.steerer.engine import SteeredEngine

_PROMPT: Final = 4
_DECODED: Final = 2
_SPANS: Final = tuple((position, position + 1) for position in range(_PROMPT + _DECODED))
# The last token that is generated is never run through the model.
_SAMPLING: Final = Sampling(max_tokens=_DECODED + 1, temperature=0.0, n_logprobs=1)
_TIMEOUT_S: Final = 300.0
# Half precision keeps 8 bits of each of the numbers that are summed; float32 keeps far more than is asked.
_TOLERANCE: Final = 2e-2


@dataclass(frozen=True, slots=True)
class _Phase:
    """Steered positions, the rows that must show it, and the first generated token that depends on them."""

    positions: Positions
    rows: slice
    token: int


_PHASES: Final = (
    _Phase("prompt", slice(0, _PROMPT), 0),
    _Phase("generated", slice(_PROMPT, _PROMPT + _DECODED), 1),
)

_Outcome = tuple[list[Growth], list[Means]]


async def check_steering(engine: "SteeredEngine") -> None:
    """Runs the canary.

    Raises:
        Unavailable: Steering does not do what it says.
    """
    sites = sorted(engine.facts.sites)
    size = max(1, engine.max_segments // (len(_PHASES) * len(_SPANS)))
    deadline = Deadline.after(_TIMEOUT_S)
    for start in range(0, len(sites), size):
        await _check(engine, sites[start : start + size], deadline)


async def _check(engine: "SteeredEngine", sites: Sequence[int], deadline: Deadline) -> None:
    prompt = tuple(number % engine.facts.vocabulary for number in range(1, _PROMPT + 1))
    direction = np.random.default_rng(0).standard_normal(engine.facts.width).astype(np.float32)

    def run(site: int, steering: Steering | None, cap: tuple[Intervention, ...]) -> asyncio.Future[_Outcome]:
        continuation = Continuation(prompt, _SAMPLING, steering)
        return asyncio.ensure_future(engine.inspect(continuation, cap, site, _SPANS, deadline, every_rank=True))

    plain = dict(zip(sites, await asyncio.gather(*(run(site, None, ()) for site in sites)), strict=True))
    caps = {site: _cap(direction, site, outcome) for site, outcome in plain.items()}
    trials = [(site, phase) for site in sites for phase in _PHASES]
    steered = await asyncio.gather(*(run(s, _steering(caps[s], phase), (caps[s],)) for s, phase in trials))
    for (site, phase), outcome in zip(trials, steered, strict=True):
        _compare(site, phase, caps[site].operator, plain[site], outcome)


def _cap(direction: Floats, site: int, outcome: _Outcome) -> Intervention:
    """Pulls as far along the direction as activations at the site are long."""
    length = float(np.linalg.norm(outcome[1][0].after, axis=1).max())
    place = HookPlace(site, "resid_pre") if site == 0 else HookPlace(site - 1, "resid_post")
    return Intervention(place, Operator.of(Method.PROJECTION_CAP, direction, length, at_least=length))


def _steering(cap: Intervention, phase: _Phase) -> Steering:
    push = Push(VectorDirection(cap.place, cap.operator.read), float(cap.operator.coefficients[-1]))
    return Steering((push,), Method.PROJECTION_CAP, positions=phase.positions)


def _compare(site: int, phase: _Phase, cap: Operator, plain: _Outcome, steered: _Outcome) -> None:
    where = f"at residual site {site} of {phase.positions} positions"
    wanted = float(cap.coefficients[-1])
    for rank, read in enumerate(steered[1]):
        error = float(np.abs(read.after[phase.rows] @ cap.read - wanted).max())
        if not error <= _TOLERANCE * wanted:
            raise Unavailable(f"Steering has no effect: a cap to {wanted:g} {where} is off by {error:g} on rank {rank}")
    before, after = (
        [score.logprob for growth in outcome[0] for score in growth.scores][phase.token] for outcome in (plain, steered)
    )
    if before == after:
        raise Unavailable(f"Steering has no effect: the next token is as likely with a cap {where} as without")
