"""What a steered model writes, computed the slow way: plain transformers in float64, the whole text again per token.

Owes nothing to `core.steering.operators`, `core.steering.writing` or any cache.
"""

import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from tests.unit.engine.families import FAMILIES, hf_model


@dataclass(frozen=True)
class Bend:
    """One direction as the truth applies it."""

    layer: int
    point: str
    method: str
    vector: tuple[float, ...]
    c: float
    low: float | None = None


@dataclass(frozen=True)
class Case:
    """One continuation and its steering."""

    prompt: tuple[int, ...]
    bends: tuple[Bend, ...] = ()
    positions: str = "all"
    spared: frozenset[int] = field(default_factory=frozenset)


@cache
def _wide(family: str) -> Any:
    return copy.deepcopy(hf_model(family, "eager")).double()


def bent(h: torch.Tensor, bend: Bend) -> torch.Tensor:
    """`[pos, d]` after one bend, by the formulas of Neuronpedia's server."""
    v = torch.tensor(bend.vector, dtype=torch.float64)
    if bend.method == "SIMPLE_ADDITIVE":
        return h + bend.c * v
    u = v / v.norm()
    along = h @ u
    if bend.method == "ORTHOGONAL_DECOMP":
        return h + ((bend.c - 1) * along)[:, None] * u
    if bend.method == "ABLATION":
        return h - along[:, None] * u
    wanted = along.clamp(max=bend.c)
    if bend.low is not None:
        wanted = wanted.clamp(min=bend.low)
    return h + (wanted - along)[:, None] * u


@torch.no_grad()
def next_logits(family: str, case: Case, ids: list[int]) -> torch.Tensor:
    """Logits `[vocab]` after `ids`, of which the first `len(case.prompt)` are the prompt."""
    parts, model = FAMILIES[family], _wide(family)
    blocks = model.get_submodule(parts.blocks)
    at = torch.arange(len(ids))
    in_prompt = at < len(case.prompt)
    steered = {"all": torch.ones(len(ids), dtype=torch.bool), "prompt": in_prompt, "generated": ~in_prompt}
    where = steered[case.positions] & ~torch.isin(at, torch.tensor(sorted(case.spared)))

    def apply(x: torch.Tensor, bends: list[Bend]) -> torch.Tensor:
        h = x[0]
        for bend in bends:
            h = torch.where(where[:, None], bent(h, bend), h)
        return h[None]

    def into(bends: list[Bend]) -> Any:
        def before(_: Any, args: Any, kwargs: Any) -> Any:
            if args:
                return (apply(args[0], bends), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": apply(kwargs["hidden_states"], bends)}

        return before

    def out_of(bends: list[Bend]) -> Any:
        def after(_: Any, __: Any, output: Any) -> Any:
            return (apply(output[0], bends), *output[1:]) if isinstance(output, tuple) else apply(output, bends)

        return after

    handles: list[Any] = []
    sites: dict[int, list[Bend]] = {}
    for bend in case.bends:
        if bend.point.startswith("resid"):
            sites.setdefault(bend.layer + (bend.point == "resid_post"), []).append(bend)
        else:
            block = blocks[bend.layer]
            if bend.point == "attn.hook_z":
                module = block.get_submodule(parts.heads_out)
                handles.append(module.register_forward_pre_hook(into([bend]), with_kwargs=True))
            else:
                name = {"hook_mlp_out": parts.mlp_contribution, "hook_attn_out": parts.attention_contribution}
                handles.append(block.get_submodule(name[bend.point]).register_forward_hook(out_of([bend])))
    for site, bends in sites.items():
        if site == 0:
            handles.append(blocks[0].register_forward_pre_hook(into(bends), with_kwargs=True))
        else:
            handles.append(blocks[site - 1].register_forward_hook(out_of(bends)))
    try:
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


def written(family: str, case: Case, n_tokens: int) -> tuple[list[int], list[torch.Tensor]]:
    """Greedy tokens and the logits that each was chosen from."""
    ids, logits = list(case.prompt), []
    for _ in range(n_tokens):
        logits.append(next_logits(family, case, ids))
        ids.append(int(logits[-1].argmax()))
    return ids[len(case.prompt) :], logits
