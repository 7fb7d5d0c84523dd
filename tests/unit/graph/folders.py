"""Random transcoder sets in circuit-tracer's folder layouts; a tenth of their features are active at unit-scale inputs.

The truth about a set is what was written: `read` gives the tensors back as plain `safetensors` loads them.
"""

from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

Activation = Literal["relu", "jumprelu", "topk"]

COMMIT = "1" * 40
_ACTIVE_SHARE_BIAS = -1.3  # pre-activations have unit spread, so about a tenth of them stay above 0


def save_plt(
    folder: Path,
    *,
    n_layers: int,
    d_model: int,
    n_features: int,
    activation: Activation = "relu",
    k: int = 8,
    skip: bool = False,
    reads: str = "mlp.hook_in",
    writes: str = "mlp.hook_out",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Writes a per-layer set, `layer_{i}.safetensors` and `config.yaml`.

    Args:
        folder: Where; made if it is not there.
        n_layers: Layers, every one with a transcoder.
        d_model: Width of the residual stream.
        n_features: Features of each layer.
        activation: Which activation function it says it has.
        k: Active features per position of a topk set.
        skip: Whether there are skip matrices.
        reads: circuit-tracer's name of the input hook.
        writes: Of the output hook.
        dtype: Of the weights.
        seed: Of the weights.
        **config: Further entries of `config.yaml`.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    for layer in range(n_layers):
        tensors = _encoder(n_features, d_model, activation, generator)
        tensors["W_dec"] = _noise((n_features, d_model), 0.5 / d_model**0.5, generator)
        tensors["b_dec"] = _noise((d_model,), 0.1, generator)
        if activation == "jumprelu":
            tensors["activation_function.threshold"] = tensors.pop("threshold")
        if skip:
            tensors["W_skip"] = _noise((d_model, d_model), 0.3 / d_model**0.5, generator)
        _save(folder / f"layer_{layer}.safetensors", tensors, dtype)
    topk = {"activation": "topk", "k": k} if activation == "topk" else {}
    return _describe(folder, "transcoder_set", reads, writes, topk | config)


def save_clt(
    folder: Path,
    *,
    n_layers: int,
    d_model: int,
    n_features: int,
    activation: Literal["relu", "jumprelu"] = "relu",
    reads: str = "hook_resid_mid",
    writes: str = "hook_mlp_out",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Writes a cross-layer set, `W_enc_{i}.safetensors`, `W_dec_{i}.safetensors` and `config.yaml`.

    Arguments are those of `save_plt`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    for layer in range(n_layers):
        tensors = _encoder(n_features, d_model, activation, generator)
        tensors["b_dec"] = _noise((d_model,), 0.1, generator)
        _save(folder / f"W_enc_{layer}.safetensors", {f"{name}_{layer}": t for name, t in tensors.items()}, dtype)
        decoder = _noise((n_features, n_layers - layer, d_model), 0.5 / d_model**0.5, generator)
        _save(folder / f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": decoder}, dtype)
    return _describe(folder, "cross_layer_transcoder", reads, writes, config)


def repository(hub: Path, repo: str, revision: str = "main") -> Path:
    """The folder of a repository's snapshot in a Hugging Face cache folder, where sets can be saved."""
    root = hub / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / revision).write_text(COMMIT)
    (root / "snapshots" / COMMIT).mkdir(parents=True)
    return root / "snapshots" / COMMIT


def read(folder: Path, layer: int) -> dict[str, Tensor]:
    """A layer's tensors in float64 as `W_enc`, `b_enc`, `W_dec`, `b_dec` and, if it has them, `threshold`, `W_skip`."""
    names = (f"layer_{layer}", f"W_enc_{layer}", f"W_dec_{layer}")
    files = [folder / f"{name}.safetensors" for name in names if (folder / f"{name}.safetensors").is_file()]
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    plain = {name.removeprefix("activation_function.").removesuffix(f"_{layer}"): t for name, t in tensors.items()}
    return {name: tensor.double() for name, tensor in plain.items()}


def _encoder(n_features: int, d_model: int, activation: Activation, generator: torch.Generator) -> dict[str, Tensor]:
    tensors = {
        "W_enc": _noise((n_features, d_model), 1 / d_model**0.5, generator),
        "b_enc": _ACTIVE_SHARE_BIAS + _noise((n_features,), 0.1, generator),
    }
    if activation == "jumprelu":
        tensors["threshold"] = _noise((n_features,), 0.2, generator).abs()
    return tensors


def _noise(shape: tuple[int, ...], scale: float, generator: torch.Generator) -> Tensor:
    return scale * torch.randn(shape, generator=generator)


def _save(path: Path, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, path)


def _describe(folder: Path, kind: str, reads: str, writes: str, config: dict[str, Any]) -> Path:
    description = {"model_kind": kind, "feature_input_hook": reads, "feature_output_hook": writes} | config
    (folder / "config.yaml").write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
    return folder
