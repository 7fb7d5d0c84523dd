"""What a score must beat to mean anything: an explanation of something else, and an SAE that has learned nothing.

Explanations of randomly initialised models score nearly as high as those of trained ones (Heap et al., 2025,
arXiv:2501.17727), so a score by itself shows little. Two baselines, both drawn by seed:

- the random explanation keeps the feature and takes another's words: what is left is how lenient the judge is;
- the random SAE keeps every norm, bias and threshold and forgets every direction: what is left is what can be said of
  any direction.

Pure functions. Running scorers over them is the job's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.autointerp.examples import FeatureName
from core.autointerp.seeds import derive_seed

if TYPE_CHECKING:
    import torch


def random_explanation(
    explanations: Mapping[FeatureName, str], name: FeatureName, seed: int
) -> tuple[FeatureName, str] | None:
    """Another feature's explanation, and whose it is; None if every other has the same words.

    Args:
        explanations: Explanations that were made, in any order.
        name: Whose explanation is to be replaced; it need not be among them.
        seed: Gives another draw.
    """
    own = explanations.get(name, "").strip().casefold()
    others = sorted(
        (one for one, text in explanations.items() if one != name and text.strip() and text.strip().casefold() != own),
        key=lambda one: (one.model, one.source, one.index),
    )
    if not others:
        return None
    chosen = others[derive_seed("random-explanation", name, seed) % len(others)]
    return chosen, explanations[chosen]


@dataclass(frozen=True, slots=True)
class Directions:
    """An SAE's two matrices: `encoder` `[d_model, features]`, `decoder` `[features, d_model]`."""

    encoder: "torch.Tensor"
    decoder: "torch.Tensor"


def random_directions(like: Directions, seed: int) -> Directions:
    """Directions that mean nothing, in place of an SAE's.

    Each feature reads and writes along one direction, uniform on the sphere, with the encoder column's and the decoder
    row's own lengths, in their types and on their device. The same seed gives the same directions on every device.

    Raises:
        ValueError: The two matrices are not of one SAE.
    """
    import torch

    if like.encoder.shape != like.decoder.T.shape:
        raise ValueError(
            f"encoder {list(like.encoder.shape)} and decoder {list(like.decoder.shape)} are not of one SAE"
        )
    generator = torch.Generator().manual_seed(derive_seed("random-sae", seed) >> 1)
    drawn = torch.randn(like.decoder.shape, generator=generator)
    units = (drawn / torch.linalg.vector_norm(drawn, dim=1, keepdim=True)).to(like.decoder.device)
    read = torch.linalg.vector_norm(like.encoder, dim=0, dtype=torch.float32)
    written = torch.linalg.vector_norm(like.decoder, dim=1, keepdim=True, dtype=torch.float32)
    return Directions(
        encoder=(units.T * read).to(like.encoder.dtype),
        decoder=(units * written).to(like.decoder.dtype),
    )
