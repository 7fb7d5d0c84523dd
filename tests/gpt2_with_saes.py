"""The tiny GPT-2 with SAEs of many kinds, and what each of them says according to plain `transformers` and SAELens.

`sources` are described by the catalogue, as a Runner's are. `Truth` shares nothing with `core`: it runs the whole model
with eager attention and its own hooks, and encodes all positions and features with the SAE's own `encode`.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from core.catalogue.sources import Source
from tests.tiny_models import D_MODEL, D_SAE, random_sae, save_sae

RES_JB = tuple(f"{layer}-res-jb" for layer in range(4))
# Source id: architecture, hook point, number of features.
LOCAL: dict[str, tuple[str, str, int]] = {
    "1-att-kk": ("standard", "blocks.1.attn.hook_z", D_SAE),
    "2-att-kk": ("jumprelu", "blocks.2.attn.hook_z", D_SAE),
    "1-mix": ("topk", "blocks.1.hook_resid_post", 64),
    "2-mix": ("gated", "blocks.2.hook_mlp_out", D_SAE),
    "3-mix": ("jumprelu_transcoder", "blocks.3.mlp.hook_in", 64),
    "4-mix": ("temporal", "blocks.4.hook_resid_pre", D_SAE),
    "5-mix": ("abstopk", "blocks.5.hook_resid_mid", D_SAE),
}
EVERY_SOURCE = (*RES_JB, *LOCAL)
N_HEADS = 4


@dataclass
class Truth:
    """What plain libraries say. Activations are `[pos, d]`, encodings `[pos, d_sae]`."""

    model: Any
    saes: dict[str, Any]
    hooks: dict[str, str]
    _runs: dict[tuple[int, ...], tuple[dict[str, torch.Tensor], tuple[torch.Tensor, ...]]] = field(default_factory=dict)

    def activation(self, ids: Sequence[int], hook: str) -> torch.Tensor:
        """The activation at a hook point."""
        return self._run(tuple(ids))[0][hook]

    def pattern(self, ids: Sequence[int], layer: int) -> torch.Tensor:
        """Attention probabilities of a layer, `[head, query, key]`."""
        return self._run(tuple(ids))[1][layer]

    @torch.no_grad()
    def features(self, ids: Sequence[int], source: str) -> torch.Tensor:
        """All features of a source."""
        rows = self.activation(ids, self.hooks[source]).unsqueeze(0)
        return self.saes[source].encode(rows)[0].float()

    @torch.no_grad()
    def dfa(self, ids: Sequence[int], source: str, index: int, target: int) -> torch.Tensor:
        """Attribution of a feature at `target` to every position, `[pos]`, head by head in float64."""
        layer = int(self.hooks[source].split(".")[1])
        values = self.activation(ids, f"blocks.{layer}.values").double().unflatten(-1, (N_HEADS, -1))
        weights = self.saes[source].W_enc[:, index].double().unflatten(-1, (N_HEADS, -1))
        pattern = self.pattern(ids, layer).double()
        return sum(pattern[head, target] * (values[:, head] @ weights[head]) for head in range(N_HEADS))  # pyright: ignore

    @torch.no_grad()
    def _run(self, ids: tuple[int, ...]) -> tuple[dict[str, torch.Tensor], tuple[torch.Tensor, ...]]:
        if ids in self._runs:
            return self._runs[ids]
        read: dict[str, torch.Tensor] = {}
        handles = []
        for layer, block in enumerate(self.model.transformer.h):
            name = f"blocks.{layer}"

            def split(_: Any, __: Any, qkv: torch.Tensor, name: str = name) -> None:
                read[f"{name}.values"] = qkv[0, :, 2 * D_MODEL :]

            def attended(_: Any, __: Any, output: Any, name: str = name) -> None:
                read[f"{name}.hook_attn_out"] = output[0][0]

            def given(_: Any, args: Any, output: torch.Tensor, name: str = name) -> None:
                read[f"{name}.mlp.hook_in"], read[f"{name}.hook_mlp_out"] = args[0][0], output[0]

            def projected(_: Any, args: Any, __: Any, name: str = name) -> None:
                read[f"{name}.attn.hook_z"] = args[0][0]

            handles += [
                block.attn.c_attn.register_forward_hook(split),
                block.attn.c_proj.register_forward_hook(projected),
                block.attn.register_forward_hook(attended),
                block.mlp.register_forward_hook(given),
            ]
        try:
            ran = self.model(torch.tensor([ids]), output_hidden_states=True, output_attentions=True)
        finally:
            for handle in handles:
                handle.remove()
        for layer in range(len(self.model.transformer.h)):
            name = f"blocks.{layer}"
            read[f"{name}.hook_resid_pre"] = ran.hidden_states[layer][0]
            read[f"{name}.hook_resid_mid"] = read[f"{name}.hook_resid_pre"] + read[f"{name}.hook_attn_out"]
            read[f"{name}.hook_resid_post"] = read[f"{name}.hook_resid_mid"] + read[f"{name}.hook_mlp_out"]
        self._runs[ids] = read, tuple(pattern[0] for pattern in ran.attentions)
        return self._runs[ids]


@dataclass
class Gpt2WithSaes:
    """One model, its sources, and the truth about both."""

    eager: Any
    hf: Any
    folder: Path

    def __post_init__(self) -> None:
        for number, (source, (architecture, hook, d_sae)) in enumerate(LOCAL.items()):
            save_sae(
                self.folder / source.split("-", 1)[1] / source,
                random_sae(architecture, D_MODEL, d_sae, hook, 50 + number),
            )

    @cached_property
    def sources(self) -> dict[str, Source]:
        """Every source by id, as the catalogue describes it."""
        from core.catalogue.catalogue import SourceFilter, find_sources

        folders = {name: str(self.folder / name) for name in ("att-kk", "mix")}
        wanted = SourceFilter(include=tuple(f"^{source}$" for source in EVERY_SOURCE))
        found = find_sources("gpt2-small", ["res-jb", "att-kk", "mix"], folders, wanted)
        return {source.id: source for source in found}

    @cached_property
    def saes(self) -> dict[str, Any]:
        """Every source as Rayscope loads it."""
        from core.saes.loading import load_sae

        return {name: load_sae(source, dtype="float32") for name, source in self.sources.items()}

    @cached_property
    def truth(self) -> Truth:
        """What the same weights say without Rayscope."""
        from sae_lens import SAE

        saes: dict[str, Any] = {}
        for source in RES_JB:
            hook = f"blocks.{source.split('-')[0]}.hook_resid_pre"
            with warnings.catch_warnings():  # SAELens advises to load the model otherwise
                warnings.simplefilter("ignore", UserWarning)
                saes[source] = SAE.from_pretrained("gpt2-small-res-jb", hook, device="cpu")
        for source in LOCAL:
            saes[source] = SAE.load_from_disk(self.folder / source.split("-", 1)[1] / source, device="cpu")
            if LOCAL[source][0] not in ("topk", "abstopk", "temporal"):
                saes[source].fold_W_dec_norm()
        for source in RES_JB:
            saes[source].fold_W_dec_norm()
        hooks = {source: hook for source, (_, hook, _) in LOCAL.items()}
        hooks |= {source: f"blocks.{source.split('-')[0]}.hook_resid_pre" for source in RES_JB}
        return Truth(self.hf, saes, hooks)
