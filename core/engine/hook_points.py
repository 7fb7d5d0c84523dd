"""Where a TransformerLens hook point lies in a Hugging Face model.

Published SAEs name the activation they read by a TransformerLens hook point (`blocks.7.hook_resid_pre`,
`blocks.3.attn.hook_z`). transformer-lens 3 ships an architecture adapter per model family that says which
Hugging Face module plays which part; this module reads only that table. The bridge's own forward is not used: it
wraps every module, which costs time on each request, and one layer more than a forward stopped at the hook point.

A hook point is the input or the output of one module. The single exception is `ln*.hook_normalized`, which
TransformerLens defines as the norm's input divided by its root mean square, before the gain; no module emits that, so
it is computed from the input with the norm's own epsilon.

Deliberately absent: per-head query/key/value hook points (no SAE reads them) and writing. Steering has its own module.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import nn

from core.errors import InvalidRequest

Side = Literal["input", "output"]

# Not str.isdigit, which lets '²' through.
_LAYER: Final = re.compile(r"[0-9]{1,4}")
_OF_MODULES: Final = frozenset({"hook_in", "hook_out", "hook_normalized"})  # what a part without a module has none of


@dataclass(frozen=True, slots=True)
class HookPoint:
    """One readable activation of one model.

    Attributes:
        name: TransformerLens name, as the SAE or the request gave it.
        module: The Hugging Face module to listen to.
        side: Whether the activation is what the module reads or what it returns.
        rms_eps: Set for `hook_normalized` only: the activation is `x / sqrt(mean(x^2) + rms_eps)`.
    """

    name: str
    module: nn.Module
    side: Side
    rms_eps: float | None = None

    def read(self, activation: torch.Tensor) -> torch.Tensor:
        """Turns what the module reads or returns, `[batch, pos, ...]`, into the activation `[batch, pos, d]`.

        Raises:
            InvalidRequest: It is `[batch * pos, d]`, which does not say where a prompt begins.
        """
        if activation.ndim < 3:
            raise InvalidRequest(
                f"This model computes '{self.name}' of all prompts in one axis, so it is not read.",
                "Use a hook point outside of the MLP, such as hook_resid_post.",
            )
        if self.rms_eps is not None:
            wide = activation.float()
            normalized = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.rms_eps)
            activation = normalized.to(activation.dtype)
        return activation if activation.ndim == 3 else activation.flatten(2)


class HookPoints:
    """Resolves hook point names for one loaded model, once per name."""

    def __init__(self, model: Any) -> None:
        from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf
        from transformer_lens.model_bridge.sources.transformers import determine_architecture_from_hf_config

        architecture = determine_architecture_from_hf_config(model.config)
        config = build_bridge_config_from_hf(model.config, architecture, "rayscope", torch.float32)
        adapter = ArchitectureAdapterFactory.select_architecture_adapter(config)
        self._model = model
        self._components: Any = adapter.get_component_mapping()
        self._resolved: dict[str, HookPoint] = {}
        self.blocks: nn.ModuleList = model.get_submodule(self._components["blocks"].name)

    def __getitem__(self, name: str) -> HookPoint:
        """Finds a hook point.

        Raises:
            InvalidRequest: The model has no such hook point.
        """
        if name not in self._resolved:
            self._resolved[name] = self._resolve(name)
        return self._resolved[name]

    def attention_module(self, layer: int) -> nn.Module | None:
        """The softmax attention of a block, or None where the block has none (linear attention, state space)."""
        component = self._components["blocks"].submodules.get("attn")
        if component is None or component.name is None:
            return None
        return getattr(self.blocks[layer], component.name, None)

    def _resolve(self, name: str) -> HookPoint:
        parts = name.split(".")
        if parts[0] == "blocks":
            if len(parts) < 3 or not _LAYER.fullmatch(parts[1]):
                raise _unknown(name, "Block hook points look like 'blocks.7.hook_resid_post'.")
            layer = int(parts[1])
            if layer >= len(self.blocks):
                raise _unknown(name, f"This model has {len(self.blocks)} layers (0-{len(self.blocks) - 1}).")
            return self._walk(name, self._components["blocks"], self.blocks[layer], parts[2:])
        if parts == ["hook_embed"]:
            parts = ["embed", "hook_out"]
        component = self._components.get(parts[0]) if len(parts) > 1 else None
        if component is None:
            raise _unknown(name, "See the hook names of the sources in GET /v1/models.")
        return self._walk(name, component, self._model.get_submodule(component.name), parts[1:])

    def _walk(self, name: str, component: Any, module: nn.Module, path: list[str]) -> HookPoint:
        """Follows `path` from a component and its module down to the module that emits the hook point."""
        head, *rest = path
        if rest:
            child = component.submodules.get(head)
            if child is None:
                raise _unknown(name, f"This architecture has no '{head}' there.")
            hint = f"This architecture computes '{head}' inside another module."
            if child.name is None and rest[0] in _OF_MODULES:
                raise _unknown(name, hint)
            try:
                below = module if child.name is None else module.get_submodule(child.name)
            except AttributeError:
                raise _unknown(name, hint) from None
            return self._walk(name, child, below, rest)
        if head == "hook_normalized":
            return HookPoint(name, module, "input", rms_eps=_rms_epsilon(name, module))
        if head in ("hook_in", "hook_out"):
            return HookPoint(name, module, "input" if head == "hook_in" else "output")
        alias = component.hook_aliases.get(head)
        if alias is None:
            raise _unknown(name, f"This architecture has no '{head}' there.")
        targets: list[str] = [alias] if isinstance(alias, str) else list(alias)
        return self._walk(name, component, module, targets[0].split("."))


def _rms_epsilon(name: str, norm: nn.Module) -> float:
    if getattr(norm, "bias", None) is not None:
        raise _unknown(name, "hook_normalized is defined for RMS norms; this model has LayerNorm.")
    for attribute in ("variance_epsilon", "eps"):
        epsilon = getattr(norm, attribute, None)
        if isinstance(epsilon, float):
            return epsilon
    raise _unknown(name, f"The norm {type(norm).__name__} does not state its epsilon.")


def _unknown(name: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"This model has no hook point '{name}'.", hint)
