"""Where in a vLLM model the residual stream can be reached, for the architectures that were tested.

Decoder layers of vLLM return the stream in two parts, `(hidden, residual)`, whose sum it is; GPT-2's return it whole.
Others return the whole stream *beside* a residual, so that the sum would count it twice, and nothing in their signature
shows it. So there is a list of architectures whose layers were compared with Hugging Face's, and every other model is
refused at start.

Site `0` is what the first block receives, site `L + 1` what block `L` returns.
"""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from core.steerer.op import NAMESPACE


@dataclass(frozen=True, slots=True)
class Layout:
    """How an architecture passes the residual stream from block to block.

    Attributes:
        blocks: Path of the list of blocks.
        parameters: First parameters of a block's forward.
    """

    blocks: str
    parameters: tuple[str, ...]

    @property
    def in_two_parts(self) -> bool:
        """Whether the stream is `hidden + residual`."""
        return "residual" in self.parameters

    @property
    def hidden_index(self) -> int:
        """Which argument of a block is `hidden`."""
        return self.parameters.index("hidden_states")


_TWO_PARTS: Final = Layout("model.layers", ("positions", "hidden_states", "residual"))
LAYOUTS: Final[Mapping[str, Layout]] = {
    "GPT2LMHeadModel": Layout("transformer.h", ("hidden_states",)),
    "Gemma2ForCausalLM": _TWO_PARTS,
    "Gemma3ForCausalLM": _TWO_PARTS,
    "LlamaForCausalLM": _TWO_PARTS,
    "MistralForCausalLM": _TWO_PARTS,
    "Qwen2ForCausalLM": _TWO_PARTS,
    "Qwen3ForCausalLM": _TWO_PARTS,
}


def layout_of(architecture: str) -> Layout:
    """The layout of a tested architecture, by the name of vLLM's class.

    Raises:
        RuntimeError: It was not tested.
    """
    layout = LAYOUTS.get(architecture)
    if layout is None:
        raise RuntimeError(
            f"{architecture} can not be steered on vLLM: how its layers pass the residual stream was not tested. "
            f"Tested are {', '.join(LAYOUTS)}."
        )
    return layout


def hook_sites(model: Any, sites: Collection[int]) -> None:
    """Calls the operation at residual sites of a loaded vLLM model, before anything is compiled or captured.

    Raises:
        RuntimeError: The architecture was not tested, its blocks changed, or the model is split into pipeline stages.
    """
    layout = layout_of(type(model).__name__)
    blocks = model.get_submodule(layout.blocks)
    for block in blocks:
        parameters = tuple(inspect.signature(block.forward).parameters)
        if parameters[: len(layout.parameters)] != layout.parameters:
            raise RuntimeError(
                f"{type(block).__name__}.forward takes {parameters}, expected {layout.parameters} first: this vLLM is "
                "not the one that steering was tested with, or the model is split into pipeline stages."
            )
    if 0 in sites:
        blocks[0].register_forward_pre_hook(_before(layout))
    for number, block in enumerate(blocks):
        if number + 1 in sites:
            block.register_forward_hook(_after(layout, number + 1))


def _before(layout: Layout) -> Any:
    def steer(_: Any, arguments: tuple[Any, ...]) -> None:
        residual = arguments[layout.hidden_index + 1] if layout.in_two_parts else None
        _steer(arguments[layout.hidden_index], residual, 0)

    return steer


def _after(layout: Layout, site: int) -> Any:
    def steer(_: Any, __: Any, output: Any) -> None:
        hidden, residual = output if layout.in_two_parts else (output, None)
        _steer(hidden, residual, site)

    return steer


def _steer(hidden: torch.Tensor, residual: torch.Tensor | None, site: int) -> None:
    getattr(torch.ops, NAMESPACE).steer(hidden, residual, site)
