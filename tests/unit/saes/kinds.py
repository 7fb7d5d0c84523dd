"""Every architecture that SAELens registers, in the variants that differ in how they load or encode."""

from pathlib import Path
from typing import Any

import torch

from core.catalogue.sources import Source, folder_sources
from core.saes.encoder import LoadedSae
from core.saes.loading import load_sae
from tests.tiny_models import D_MODEL, D_SAE, random_sae, save_sae

HOOK = "blocks.1.hook_resid_post"

# Name of the variant: architecture and configuration.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("standard", {}),
    "standard, b_dec not subtracted": ("standard", {"apply_b_dec_to_input": False}),
    "standard, layer norm": ("standard", {"normalize_activations": "layer_norm"}),
    "standard, constant norm": ("standard", {"normalize_activations": "constant_norm_rescale"}),
    "jumprelu": ("jumprelu", {}),
    "gated": ("gated", {}),
    "topk": ("topk", {}),
    "topk, rescaled": ("topk", {"rescale_acts_by_decoder_norm": True}),
    "topk, layer norm": ("topk", {"normalize_activations": "layer_norm"}),
    "abstopk": ("abstopk", {}),
    "abstopk, rescaled": ("abstopk", {"rescale_acts_by_decoder_norm": True}),
    "matching_pursuit": ("matching_pursuit", {}),
    "temporal": ("temporal", {}),
    "temporal, own encoder": ("temporal", {"tied_weights": False, "n_attn_layers": 2}),
    "temporal, scaled": (
        "temporal",
        {"normalize_activations": "constant_scalar_rescale", "activation_normalization_factor": 0.5},
    ),
    "transcoder": ("transcoder", {}),
    "transcoder to a wider layer": ("transcoder", {"d_out": 2 * D_MODEL}),
    "skip_transcoder": ("skip_transcoder", {}),
    "skip_transcoder to a wider layer": ("skip_transcoder", {"d_out": 2 * D_MODEL}),
    "jumprelu_transcoder": ("jumprelu_transcoder", {}),
    "jumprelu_skip_transcoder": ("jumprelu_skip_transcoder", {}),
}
ARCHITECTURES = {architecture for architecture, _ in KINDS.values()}
NOT_FOLDED = {"topk", "topk, layer norm", "abstopk", "matching_pursuit"} | {
    kind for kind in KINDS if kind.startswith("temporal")
}
ELEMENTWISE = [
    kind for kind, (name, _) in KINDS.items() if name in ("standard", "jumprelu", "gated") or "transcoder" in name
]
SEQUENTIAL = [kind for kind in KINDS if kind.startswith("temporal")]


def raw_sae(kind: str, d_sae: int = D_SAE) -> Any:
    """The SAE as it was trained: decoder rows of any length."""
    architecture, config = KINDS[kind]
    return random_sae(architecture, D_MODEL, d_sae, HOOK, seed=7, **config)


def saved(kind: str, folder: Path) -> Source:
    """The source of an SAE of this kind in a local folder."""
    save_sae(folder / "1-kind", raw_sae(kind))
    return folder_sources("kind", folder)[0]


def loaded(kind: str, folder: Path, dtype: str = "float32") -> LoadedSae:
    """The SAE as Rayscope loads it from a local folder."""
    return load_sae(saved(kind, folder), dtype=dtype)


def activations(n: int = 9, seed: int = 3) -> torch.Tensor:
    """`[n, d_model]`, far from zero mean and unit length."""
    return 1.5 * torch.randn(n, D_MODEL, generator=torch.Generator().manual_seed(seed)) + 0.3


@torch.no_grad()
def saelens_encode(sae: Any, rows: torch.Tensor) -> torch.Tensor:
    """SAELens' own encoding of one prompt."""
    return sae.encode(rows.unsqueeze(0)).squeeze(0)
