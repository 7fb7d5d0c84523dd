"""The transcoder set `plt-demo`: per layer, a sparse dictionary that computes the MLP's output from its input.

Trained as BatchTopK and stored as JumpReLU with an explicit threshold tensor, because a local circuit-tracer folder
has no way to say TopK and would silently read one as ReLU. The input is the normalised MLP input (`mlp.hook_in`), the
output what the MLP adds to the residual stream (`mlp.hook_out`). A small loop of our own: SAELens' trainers
reconstruct their input and have no second target.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.demo import DEMO_MODEL_ID
from core.demo.model import LAYERS, Progress

NAME = "plt-demo"
FEATURES = 1024
_ACTIVE = 24
_BATCH = 1024
_STEPS = 400
_DEAD_AFTER_STEPS = 30
_REVIVED = 64


@dataclass(frozen=True, slots=True)
class Transcoder:
    """Weights of one layer, as circuit-tracer names them.

    Attributes:
        W_enc: `[feature, d]`.
        W_dec: `[feature, d]`, every row of norm 1.
        b_enc: `[feature]`.
        b_dec: `[d]`.
        threshold: `[feature]`; a pre-activation at or below it counts as 0.
    """

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    threshold: Tensor

    def encode(self, mlp_in: Tensor) -> Tensor:
        """Feature activations `[..., feature]` of MLP inputs `[..., d]`."""
        before = mlp_in @ self.W_enc.T + self.b_enc
        return before * (before > self.threshold)

    def __call__(self, mlp_in: Tensor) -> Tensor:
        """The approximate MLP output `[..., d]`."""
        return self.encode(mlp_in) @ self.W_dec + self.b_dec


def train_transcoder(mlp_in: Tensor, mlp_out: Tensor, seed: int, progress: Progress) -> Transcoder:
    """Train the transcoder of one layer.

    Args:
        mlp_in: `[token, d]`.
        mlp_out: `[token, d]`, of the same tokens.
        seed: Initial weights and order of tokens.
        progress: Told while training.

    Returns:
        The transcoder with scaling and decoder norms folded in.
    """
    generator = torch.Generator().manual_seed(seed)
    width = mlp_in.shape[1]
    in_scale = width**0.5 / mlp_in.norm(dim=1).mean()
    out_scale = width**0.5 / mlp_out.norm(dim=1).mean()
    encoder = torch.nn.functional.normalize(torch.randn(FEATURES, width, generator=generator), dim=1)
    decoder = 0.1 * torch.nn.functional.normalize(torch.randn(FEATURES, width, generator=generator), dim=1)
    bias = torch.zeros(FEATURES)
    mean = mlp_out.mean(0) * out_scale
    parameters = [t.requires_grad_() for t in (encoder, decoder, bias, mean)]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 50, max(0.1, 3 * (_STEPS - step) / _STEPS)),
    )
    silent, threshold = torch.zeros(FEATURES), torch.tensor(0.0)
    order = torch.randperm(len(mlp_in), generator=generator)
    for step in range(_STEPS):
        at = step * _BATCH % (len(order) - _BATCH)
        batch = order[at : at + _BATCH]
        x, y = mlp_in[batch] * in_scale, mlp_out[batch] * out_scale
        norms = decoder.norm(dim=1)
        before = (x @ encoder.T + bias) * norms
        kept = _batch_top(before.relu(), _ACTIVE)
        residual = y - (kept @ (decoder / norms[:, None]) + mean)
        loss = residual.pow(2).sum(1).mean()
        dead = silent > _DEAD_AFTER_STEPS
        if dead.any():
            revived = _batch_top((before * dead).relu(), min(_REVIVED, int(dead.sum())))
            missed = residual.detach() - revived @ (decoder / norms[:, None])
            loss = loss + missed.pow(2).sum(1).mean() / 16
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            fired = kept > 0
            silent = (silent + 1) * ~fired.any(0)
            threshold = torch.lerp(threshold, kept[fired].min(), 0.02)
        if step % 10 == 9:
            unexplained = (residual.pow(2).sum() / (y - y.mean(0)).pow(2).sum()).item()
            progress(step + 1, _STEPS, f"unexplained {unexplained:.3f}, dead {int(dead.sum())}")
    with torch.no_grad():
        norms = decoder.norm(dim=1)
        return Transcoder(
            W_enc=(encoder * (norms * in_scale / out_scale)[:, None]).contiguous(),
            W_dec=(decoder / norms[:, None]).contiguous(),
            b_enc=bias * norms / out_scale,
            b_dec=mean / out_scale,
            threshold=(threshold / out_scale).expand(FEATURES).contiguous(),
        )


def _batch_top(values: Tensor, per_token: int) -> Tensor:
    """`values` with all but the `per_token * tokens` largest set to 0."""
    flat = values.flatten()
    lowest = flat.detach().kthvalue(len(flat) - per_token * len(values)).values
    return values * (values > lowest)


def save_transcoders(transcoders: list[Transcoder], root: Path) -> None:
    """Write the set in circuit-tracer's folder layout."""
    folder = root / NAME
    folder.mkdir(parents=True, exist_ok=True)
    description = {
        "model_kind": "transcoder_set",
        "model_name": DEMO_MODEL_ID,
        "scan": NAME,
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "mlp.hook_out",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
    for layer, t in enumerate(transcoders):
        tensors = {
            "W_enc": t.W_enc,
            "W_dec": t.W_dec,
            "b_enc": t.b_enc,
            "b_dec": t.b_dec,
            "activation_function.threshold": t.threshold,
        }
        save_file({name: tensor.detach() for name, tensor in tensors.items()}, folder / f"layer_{layer}.safetensors")


def load_transcoders(root: Path) -> list[Transcoder]:
    """The set of an artefact folder, layer by layer."""
    loaded: list[Transcoder] = []
    for layer in range(LAYERS):
        tensors = load_file(root / NAME / f"layer_{layer}.safetensors")
        loaded.append(
            Transcoder(
                W_enc=tensors["W_enc"],
                W_dec=tensors["W_dec"],
                b_enc=tensors["b_enc"],
                b_dec=tensors["b_dec"],
                threshold=tensors["activation_function.threshold"],
            ),
        )
    return loaded
