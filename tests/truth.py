"""The independent answer: a plain `transformers` forward and SAELens' own `encode`, nothing of ours."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch


@dataclass
class Truth:
    """A model folder (or cached id) and where its SAEs come from."""

    weights: str

    @cached_property
    def model(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.weights, dtype=torch.float32).eval()

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.weights)

    def ids(self, text: str) -> list[int]:
        """Token ids with exactly one BOS."""
        ids = self.tokenizer(text)["input_ids"]
        bos = self.tokenizer.bos_token_id
        return ids if ids and ids[0] == bos else [bos, *ids]

    def strings(self, text: str) -> list[str]:
        return [self.tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in self.ids(text)]

    @torch.no_grad()
    def residual(self, text: str, layer: int, side: str) -> torch.Tensor:
        """`resid_pre` or `resid_post` of a block, `[pos, d_model]`; the last block's is taken before the norm."""
        blocks = self.model.get_submodule("transformer.h" if hasattr(self.model, "transformer") else "model.layers")
        kept: list[torch.Tensor] = []

        def keep(_: Any, args: Any, output: Any) -> None:
            kept.append(args[0] if side == "pre" else (output[0] if isinstance(output, tuple) else output))

        handle = blocks[layer].register_forward_hook(keep)
        try:
            self.model(input_ids=torch.tensor([self.ids(text)]))
        finally:
            handle.remove()
        return kept[0][0]

    @torch.no_grad()
    def heads(self, text: str, layer: int) -> torch.Tensor:
        """`hook_z`: the concatenated heads before the output projection, `[pos, n_heads * head_dim]`."""
        kept: list[torch.Tensor] = []
        projection = self.model.get_submodule(f"model.layers.{layer}.self_attn.o_proj")
        handle = projection.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
        try:
            self.model(input_ids=torch.tensor([self.ids(text)]))
        finally:
            handle.remove()
        return kept[0][0]


def folded(sae: Any) -> Any:
    """Published units: unit decoder rows, `hook_z` taken as it is."""
    sae.turn_off_forward_pass_hook_z_reshaping()
    sae.fold_W_dec_norm()
    return sae.eval()


def folder_sae(folder: Path) -> Any:
    from sae_lens import SAE

    return folded(SAE.load_from_disk(str(folder), device="cpu", dtype="float32"))


def published_sae(release: str, sae_id: str) -> Any:
    from sae_lens import SAE

    return folded(SAE.from_pretrained(release, sae_id, device="cpu", dtype="float32"))
