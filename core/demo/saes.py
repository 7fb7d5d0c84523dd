"""The two SAE sets, trained with SAELens: `res-demo` on the residual stream, `att-demo` on attention outputs.

Matryoshka BatchTopK is the architecture: BatchTopK gives a fixed average L0 without a sparsity coefficient to tune,
and the nested widths make the first features take what is common (a language, a digit, a chat) instead of splitting
it over dozens of rare ones. SAELens saves it as JumpReLU with one threshold, so inference is elementwise.

The saved weights need no care: input scaling and decoder norms are folded in, `normalize_activations` is `none` and
every decoder row has norm 1, so a steering strength is a length in the residual stream.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from sae_lens import SAE
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from core.demo import DEMO_MODEL_ID
from core.demo.activations import HOOK_NAMES, Site
from core.demo.concepts import Labels
from core.demo.model import Progress
from core.demo.tokenizer import CONTEXT_TOKENS

FEATURES = 1024
_NESTED = (32, 128, 384, FEATURES)
_BATCH = 1024
START_CONCEPTS = ("English", "French", "Spanish", "digits")


@dataclass(frozen=True, slots=True)
class SaeSet:
    """One family of SAEs.

    Attributes:
        name: Name of the set.
        site: Where it reads.
        active: How many features are active on average.
        steps: Optimiser steps of 1024 tokens each.
        start_norm: Norm of the decoder rows before training.
    """

    name: str
    site: Site
    active: int
    steps: int
    start_norm: float

    def folder(self, root: Path, layer: int) -> Path:
        """Where the SAE of a layer lives, as `<layer>-<set>`."""
        return root / self.name / f"{layer}-{self.name}"


RES_DEMO = SaeSet("res-demo", "resid_post", active=24, steps=600, start_norm=0.4)
ATT_DEMO = SaeSet("att-demo", "z", active=32, steps=400, start_norm=0.1)
SETS = (RES_DEMO, ATT_DEMO)


def train_sae(
    family: SaeSet, layer: int, activations: Tensor, directions: Tensor, seed: int, progress: Progress
) -> MatryoshkaBatchTopKTrainingSAE:
    """Train the SAE of one layer.

    Args:
        family: Which set.
        layer: Which layer.
        activations: `[token, d]`, without `<bos>`.
        directions: `[n, d]` of norm 1, where the first n features start; may be empty.
        seed: Initial weights and order of tokens.
        progress: Told after every step.

    Returns:
        The SAE with scaling and decoder norms folded in.
    """
    torch.manual_seed(seed)
    width, steps = activations.shape[1], family.steps
    config = MatryoshkaBatchTopKTrainingSAEConfig(
        d_in=width,
        d_sae=FEATURES,
        k=family.active,
        decoder_init_norm=family.start_norm,
        matryoshka_widths=list(_NESTED),
        topk_threshold_lr=0.02,
        aux_loss_coefficient=1.0,
        metadata=SAEMetadata(
            model_name=DEMO_MODEL_ID,
            hook_name=HOOK_NAMES[family.site].format(layer=layer),
            context_size=CONTEXT_TOKENS,
            prepend_bos=True,
        ),
    )
    sae = MatryoshkaBatchTopKTrainingSAE(config)
    scale = width**0.5 / activations.norm(dim=1).mean().item()
    with torch.no_grad():
        sae.b_dec.copy_(activations.mean(0) * scale)
        sae.W_dec[: len(directions)] = family.start_norm * directions
        sae.W_enc[:, : len(directions)] = family.start_norm * directions.T
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=steps * _BATCH,
            train_batch_size_samples=_BATCH,
            lr=2e-3,
            lr_end=2e-4,
            lr_warm_up_steps=50,
            lr_decay_steps=steps // 3,
            dead_feature_window=30,
            feature_sampling_window=steps + 1,
        ),
        sae,
        iter(()),
    )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(activations), generator=generator)
    for step in range(steps):
        at = step * _BATCH % (len(order) - _BATCH)
        output = trainer.step(activations[order[at : at + _BATCH]] * scale)
        trainer.n_training_steps += 1
        if step % 10 == 9:
            unexplained = output.losses["mse_loss"].item() / width  # pyright: ignore[reportAttributeAccessIssue]
            progress(step + 1, steps, f"unexplained {unexplained:.3f}, dead {int(trainer.dead_neurons.sum())}")
    sae.fold_activation_norm_scaling_factor(scale)
    sae.fold_W_dec_norm()
    return sae


def concept_directions(activations: Tensor, labels: Labels) -> Tensor:
    """Where the first features of a residual SAE start: mean activation of a concept minus the mean of the rest.

    A short training from random weights splits a language over several features; started at the right place, it keeps
    one. Training moves these features as freely as all others.

    Args:
        activations: `[token, d]`.
        labels: Concepts of the same tokens.

    Returns:
        `[concept, d]` of norm 1, in the order of `START_CONCEPTS`.
    """
    found: list[Tensor] = []
    for name in START_CONCEPTS:
        column = labels.names.index(name)
        counts, holds = labels.counts[:, column], labels.holds[:, column]
        found.append(activations[counts & holds].mean(0) - activations[counts & ~holds].mean(0))
    return torch.nn.functional.normalize(torch.stack(found), dim=1)


def save_sae(sae: MatryoshkaBatchTopKTrainingSAE, folder: Path) -> None:
    """Write the JumpReLU form in SAELens' on-disk format, keys in order: SAELens' own order changes from run to run."""
    _, cfg = sae.save_inference_model(folder)
    cfg.write_text(json.dumps(json.loads(cfg.read_text("utf-8")), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_sae(folder: Path) -> SAE:  # pyright: ignore[reportMissingTypeArgument, reportUnknownParameterType]
    """The SAE of a folder, ready to encode `[..., d]`."""
    sae = SAE.load_from_disk(folder)
    if sae.cfg.reshape_activations == "hook_z":
        sae.turn_off_forward_pass_hook_z_reshaping()
    return sae.eval()
