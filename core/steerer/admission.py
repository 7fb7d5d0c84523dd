"""What the engine can run: turns continuations into programs, or refuses them before anything reaches a worker."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.errors import InvalidRequest
from core.generation.requests import Continuation
from core.steerer.request import Program, Step
from core.steering.operators import Intervention
from core.steering.specification import Floats

_EAGER_HINT = "Only Runners can do this; ask for a model that a Runner generates with."


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What a running engine is like.

    Attributes:
        n_layers: Blocks of the model.
        width: Numbers of an activation.
        vocabulary: Token ids.
        max_tokens: Tokens of a sequence, prompt included.
        sites: Residual sites that can be steered.
        operators_per_site: Operators of one sequence at one site at most.
    """

    n_layers: int
    width: int
    vocabulary: int
    max_tokens: int
    sites: frozenset[int]
    operators_per_site: int


@dataclass(frozen=True, slots=True, eq=False)
class Admitted:
    """A continuation that the engine can run.

    Attributes:
        program: None leaves the model alone.
        vectors: The program's directions by digest.
    """

    program: Program | None
    vectors: Mapping[str, Floats]


def admit(continuation: Continuation, interventions: Sequence[Intervention], facts: EngineFacts) -> Admitted:
    """Checks a continuation and writes its program.

    Raises:
        InvalidRequest: The model can not run it, or this engine can not steer it so.
    """
    _check_prompt(continuation.prompt, facts)
    steering = continuation.steering
    if steering is None or not interventions:
        return Admitted(None, {})
    if steering.condition is not None:
        raise InvalidRequest("Conditional steering is not possible on this engine", _EAGER_HINT)
    steps: list[Step] = []
    vectors: dict[str, Floats] = {}
    for intervention in interventions:
        site = _site(intervention, facts)
        step = Step.of(site, intervention.operator)
        steps.append(step)
        vectors[step.read] = intervention.operator.read
        vectors[step.write] = intervention.operator.write
    site, most = Counter(step.site for step in steps).most_common(1)[0]
    if most > facts.operators_per_site:
        raise InvalidRequest(
            f"The request steers residual site {site} along {most} directions; this engine applies "
            f"{facts.operators_per_site} at most",
            "Send fewer features per layer, or add the vectors up.",
        )
    spares = not steering.special_tokens and steering.positions != "generated"
    spared = sorted({p for p in continuation.special_positions if p < len(continuation.prompt)}) if spares else ()
    return Admitted(Program(tuple(steps), steering.positions, tuple(spared)), vectors)


def check_site(site: int, facts: EngineFacts) -> None:
    """Refuses a residual site that is not hooked.

    Raises:
        InvalidRequest: It is not.
    """
    if site not in facts.sites:
        raise InvalidRequest(
            f"Residual site {site} can not be reached on this engine; it has {sorted(facts.sites)}",
            "resid_pre of layer L is site L, resid_post of layer L is site L + 1.",
        )


def _check_prompt(prompt: Sequence[int], facts: EngineFacts) -> None:
    if not prompt:
        raise InvalidRequest("The prompt has no tokens.")
    if len(prompt) >= facts.max_tokens:
        raise InvalidRequest(
            f"The prompt has {len(prompt)} tokens; this engine takes {facts.max_tokens}, at least one of them new."
        )
    unknown = [token for token in (min(prompt), max(prompt)) if not 0 <= token < facts.vocabulary]
    if unknown:
        raise InvalidRequest(
            f"The prompt holds token {unknown[0]}, for which this model has no embedding (0-{facts.vocabulary - 1})."
        )


def _site(intervention: Intervention, facts: EngineFacts) -> int:
    place = intervention.place
    if place.site is None:
        raise InvalidRequest(
            f"{place.name} is not on the residual stream, so this engine can not steer it", _EAGER_HINT
        )
    if place.layer >= facts.n_layers:
        raise InvalidRequest(f"{place.name} does not exist: the model has {facts.n_layers} layers")
    check_site(place.site, facts)
    for direction in (intervention.operator.read, intervention.operator.write):
        if direction.shape != (facts.width,):
            raise InvalidRequest(
                f"A steering vector for {place.name} has {direction.size} numbers; the model has {facts.width}"
            )
    return place.site
