"""Which tokens a latent raises and lowers most: its decoder row through the unembedding.

The direct effect alone, `W_dec[i] @ W_U`, as Neuronpedia shows it: the final norm and what later layers make of the
direction are left out. It means something only where the decoder writes to the residual stream.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from core.engine.model import EagerModel
from core.saes.encoder import LoadedSae

_NUMBERS_AT_ONCE = 2**24


@dataclass(frozen=True, slots=True)
class TokenEffects:
    """Strongest direct effects of latents on the output.

    Attributes:
        top_tokens: Ids of the tokens raised most, `[n_latents, k]` int32, strongest first.
        top_values: What is added to their logits by one unit of the latent, `[n_latents, k]` float32.
        bottom_tokens: Ids of the tokens lowered most, strongest first.
        bottom_values: Likewise.
    """

    top_tokens: NDArray[np.int32]
    top_values: NDArray[np.float32]
    bottom_tokens: NDArray[np.int32]
    bottom_values: NDArray[np.float32]


@torch.inference_mode()
def token_effects(model: EagerModel, sae: LoadedSae, start: int, end: int, k: int = 10) -> TokenEffects | None:
    """Effects of latents `start` to `end - 1`; None where the decoder does not write to the residual stream."""
    unembedding = model.module.get_output_embeddings().weight  # [vocab, d_model]
    decoder = sae.sae.W_dec[start:end]
    if decoder.shape[1] != unembedding.shape[1] or sae.hook_name.endswith(".hook_z"):
        return None
    tokens: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    for rows in decoder.split(max(1, _NUMBERS_AT_ONCE // len(unembedding))):
        effects = rows.to(unembedding.device).float() @ unembedding.float().T
        both = [effects.topk(k), effects.topk(k, largest=False)]
        tokens.append(torch.stack([best.indices for best in both]))
        values.append(torch.stack([best.values for best in both]))
    ids = torch.cat(tokens, 1).to(torch.int32).cpu().numpy()
    sizes = torch.cat(values, 1).cpu().numpy()
    return TokenEffects(ids[0], sizes[0], ids[1], sizes[1])
