"""What a steered model writes, worked out independently: plain Hugging Face in float32, hooks, no cache at all.

Every token is the outcome of a forward pass over everything before it, with the formulas of the method applied to every
position that is steered. Nothing here is shared with the engine but the description of a case.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from core.generation.requests import Continuation, Sampling
from core.steering.operators import Intervention, Operator
from core.steering.specification import (
    Floats,
    HookPlace,
    Method,
    Positions,
    Push,
    Steering,
    VectorDirection,
)


@dataclass(frozen=True, eq=False)
class Write:
    """One direction at one hook point."""

    place: HookPlace
    method: Method
    vector: Floats
    coefficient: float
    at_least: float | None = None

    def applied(self, x: torch.Tensor) -> torch.Tensor:
        vector = torch.from_numpy(self.vector)
        unit = vector / vector.norm()
        along = (x @ unit)[:, None]
        match self.method:
            case Method.SIMPLE_ADDITIVE:
                return x + self.coefficient * vector
            case Method.ORTHOGONAL_DECOMP:
                return x + (self.coefficient - 1.0) * along * unit
            case Method.PROJECTION_CAP:
                return x + (along.clamp(min=self.at_least, max=self.coefficient) - along) * unit
            case Method.ABLATION:
                return x - along * unit


@dataclass(frozen=True, eq=False)
class Case:
    """A sequence and how it is steered."""

    prompt: tuple[int, ...]
    writes: tuple[Write, ...] = ()
    positions: Positions = "all"
    special: tuple[int, ...] = ()
    spare_special: bool = False
    max_tokens: int = 8
    name: str = ""

    @property
    def continuation(self) -> Continuation:
        steering = None
        if self.writes:
            pushes = tuple(Push(VectorDirection(w.place, w.vector), w.coefficient, w.at_least) for w in self.writes)
            # The engine takes methods from the interventions; a request would have one for all.
            steering = Steering(
                pushes, self.writes[0].method, positions=self.positions, special_tokens=not self.spare_special
            )
        return Continuation(
            self.prompt, Sampling(self.max_tokens, temperature=0.0, n_logprobs=1), steering, self.special
        )

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        return tuple(
            Intervention(w.place, Operator.of(w.method, w.vector, w.coefficient, at_least=w.at_least))
            for w in self.writes
        )

    def unsteered(self) -> "Case":
        return Case(self.prompt, max_tokens=self.max_tokens)

    def steers(self, position: int) -> bool:
        if position >= len(self.prompt):
            return self.positions != "prompt"
        return self.positions != "generated" and not (self.spare_special and position in self.special)


@dataclass(eq=False)
class Written:
    """Greedy tokens, their log-probabilities, and activations by site, `[positions, width]`, before and after."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    before: dict[int, Floats] = field(default_factory=dict)
    after: dict[int, Floats] = field(default_factory=dict)


class Truth:
    """The plain model."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModelForCausalLM

        self._model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        base = self._model.base_model
        self._blocks = base.h if hasattr(base, "h") else base.layers

    @torch.no_grad()
    def write(self, case: Case) -> Written:
        ids = list(case.prompt)
        written = Written((), ())
        hooks = self._hook(case, written)
        try:
            for _ in range(case.max_tokens):
                scores = self._model(torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)
                ids.append(int(scores.argmax()))
                written.logprobs += (float(scores.max()),)
        finally:
            for hook in hooks:
                hook.remove()
        written.tokens = tuple(ids[len(case.prompt) :])
        return written

    def _hook(self, case: Case, written: Written) -> list[Any]:
        def change(hidden: torch.Tensor, site: int) -> torch.Tensor:
            x = hidden[0]
            written.before[site] = x.numpy().copy()
            steered = torch.tensor([case.steers(position) for position in range(len(x))])[:, None]
            for write in case.writes:
                if write.place.site == site:
                    x = torch.where(steered, write.applied(x), x)
            written.after[site] = x.numpy().copy()
            return x[None]

        def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (change(args[0], 0), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": change(kwargs["hidden_states"], 0)}

        def after(site: int) -> Any:
            def hook(_: Any, __: Any, output: Any) -> Any:
                if isinstance(output, tuple):
                    return (change(output[0], site), *output[1:])
                return change(output, site)

            return hook

        return [
            self._blocks[0].register_forward_pre_hook(before, with_kwargs=True),
            *(block.register_forward_hook(after(n + 1)) for n, block in enumerate(self._blocks)),
        ]


def tokens(rng: np.random.Generator, n: int, vocabulary: int) -> tuple[int, ...]:
    return tuple(int(token) for token in rng.integers(3, vocabulary, n))


def mixture(width: int, n_layers: int, vocabulary: int, lengths: Sequence[int] = (11, 24, 37)) -> list[Case]:
    """Every method at both residual points, in every phase, sparing special tokens or not, and unsteered ones."""
    rng = np.random.default_rng(0)
    cases: list[Case] = []
    for method, coefficient, at_least in (
        (Method.SIMPLE_ADDITIVE, 1.5, None),
        (Method.ORTHOGONAL_DECOMP, -3.0, None),
        (Method.PROJECTION_CAP, -8.0, -20.0),
    ):
        for point in ("resid_pre", "resid_post"):
            for positions in ("all", "prompt", "generated"):
                for spare in (False, True):
                    length = lengths[len(cases) % len(lengths)]
                    layer = len(cases) % n_layers
                    vector = rng.standard_normal(width).astype(np.float32)
                    cases.append(
                        Case(
                            prompt=tokens(rng, length, vocabulary),
                            writes=(Write(HookPlace(layer, point), method, vector, coefficient, at_least),),
                            positions=positions,
                            special=(0, 1, 2, length - 2, length - 1),
                            spare_special=spare,
                            name=f"{method} {layer}.{point} {positions}{' sparing' * spare}",
                        )
                    )
        cases.append(Case(prompt=tokens(rng, 19, vocabulary), name="unsteered"))
    several = tuple(
        Write(HookPlace(layer, "resid_post"), method, rng.standard_normal(width).astype(np.float32), coefficient)
        for layer, method, coefficient in (
            (1, Method.SIMPLE_ADDITIVE, 1.0),
            (0, Method.ORTHOGONAL_DECOMP, -2.0),
            (1, Method.PROJECTION_CAP, -1.0),
            (1, Method.ABLATION, 0.0),
            (1, Method.SIMPLE_ADDITIVE, 0.7),
        )
    )
    cases.append(Case(prompt=tokens(rng, 30, vocabulary), writes=several, name="several in order"))
    return cases
