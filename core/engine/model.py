"""A loaded language model and the facts about it that requests need.

Any `transformers` causal language model loads here. Its forward stays the plain Hugging Face one; see `capture` for
how it is read.
"""

from collections.abc import Collection, Sequence
from typing import Any, Self

import torch

from core.engine.attention import readable_attention
from core.engine.capture import Capture, capture, pad_right
from core.engine.hook_points import HookPoints
from core.engine.shape import ModelShape
from core.errors import InvalidRequest


def fuse_activations(model: Any) -> Any:
    """Gives a model the fused form of GPT-2's GELU: the same function in one kernel instead of eight, within 1e-6.

    It saves 5 % of a GPT-2 forward on two cores.
    """
    from transformers.activations import GELUTanh, NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, GELUTanh())
    return model


class EagerModel:
    """A causal language model on one device, read at hook points.

    All methods that touch the device must run on the one thread that owns it (`core.device`).
    """

    def __init__(self, model: Any) -> None:
        self._model = model.eval()
        self.hook_points = HookPoints(model)
        self.shape = ModelShape.from_config(model.config)
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self._n_embeddings: int = model.get_input_embeddings().weight.shape[0]

    @classmethod
    def load(cls, weights: str, *, device: str, dtype: str = "auto", revision: str | None = None) -> Self:
        """Loads from a Hugging Face repository id or a local folder; only safetensors weights are read.

        Gemma-2 caps its attention scores, which `sdpa` silently leaves out, so such models keep eager attention.
        """
        from transformers import AutoConfig, AutoModelForCausalLM

        config: Any = AutoConfig.from_pretrained(weights, revision=revision)
        capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
        model: Any = AutoModelForCausalLM.from_pretrained(
            weights,
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation="eager" if capped else None,
        )
        return cls(fuse_activations(model).to(device))

    def capture(
        self,
        prompts: Sequence[Sequence[int]],
        names: Collection[str],
        attention_layers: Collection[int] = (),
    ) -> Capture:
        """Reads hook points `names` over `prompts` in one stopped forward pass.

        Returns:
            Activations `[batch, longest, d]`; a row's entries past its own length are padding.
        """
        ids = pad_right(prompts).to(self.device)
        return capture(self._model, self.hook_points, ids, names, attention_layers)

    @property
    def module(self) -> Any:
        """The Hugging Face model."""
        return self._model

    def next_logits(
        self, ids: torch.Tensor, positions: torch.Tensor, masks: Any, cache: Any, at: torch.Tensor
    ) -> torch.Tensor:
        """One pass to the end, for generating.

        Args:
            ids: New tokens of every row, `[batch, new]`.
            positions: Their positions, `[batch, new]`.
            masks: Attention masks as transformers takes them.
            cache: A transformers cache, which gains the new tokens.
            at: Which of the new tokens to give logits for, one per row, `[batch]`.

        Returns:
            Logits `[batch, vocab]`.
        """
        rows = torch.arange(len(at), device=at.device)

        def keep_one(_: Any, args: tuple[Any, ...]) -> tuple[torch.Tensor]:
            return (args[0][rows, at].unsqueeze(1),)

        # The unembedding is the widest product of all, and only one position of each row needs it.
        handle = self._model.get_output_embeddings().register_forward_pre_hook(keep_one)
        try:
            output = self._model(
                input_ids=ids, position_ids=positions, attention_mask=masks, past_key_values=cache, use_cache=True
            )
        finally:
            handle.remove()
        return output.logits[:, 0]

    def size_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(parameter.nbytes for parameter in self._model.parameters())

    def cache_bytes(self, positions: int) -> int:
        """Bytes of the keys and values of so many positions."""
        return self.shape.cache_bytes(positions, self.dtype.itemsize)

    def check_prompt(self, ids: Sequence[int]) -> None:
        """Refuses a prompt that no embedding holds. On a GPU it would cost the process, not only the request.

        Tokenizers do know tokens that their model has no row for, Gemma 3's image token for one.
        """
        if not ids:
            raise InvalidRequest("The prompt has no tokens.")
        if len(ids) > self.shape.max_positions:
            raise InvalidRequest(f"The prompt has {len(ids)} tokens; this model reads {self.shape.max_positions}.")
        unknown = [token for token in (min(ids), max(ids)) if not 0 <= token < self._n_embeddings]
        if unknown:
            raise InvalidRequest(
                f"The prompt holds token {unknown[0]}, for which this model has no embedding "
                f"(0-{self._n_embeddings - 1}).",
                "Leave special tokens of other modalities out of the text.",
            )

    def check_attention(self, layer: int) -> None:
        """Refuses a layer that the model does not have, or whose attention pattern can not be read."""
        if not 0 <= layer < self.shape.n_layers:
            raise InvalidRequest(f"Invalid layer: {layer}. Must be in [0, {self.shape.n_layers}).")
        readable_attention(self.hook_points, layer)
