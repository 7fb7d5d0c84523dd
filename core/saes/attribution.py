"""Direct feature attribution (DFA): which earlier tokens an attention-output feature got its activation from.

For a feature with encoder column `w` on `hook_z`, split by head, and a destination position `d`:

    dfa[src] = sum over heads h of  P[h, d, src] * (V[kv(h), src] . w[h])

`P` are the attention probabilities, `V` the value vectors and `kv` maps a head to its key-value group (Kissane et al.
2024, "Interpreting attention layer outputs with sparse autoencoders"). Contracting the head dimension first keeps the
memory at `n_heads x pos`.
"""

import torch

from core.engine.attention import AttentionReading
from core.errors import InvalidRequest
from core.saes.encoder import LoadedSae


@torch.inference_mode()
def direct_feature_attribution(
    sae: LoadedSae, index: int, attention: AttentionReading, row: int, length: int, destination: int
) -> torch.Tensor:
    """Attribution of feature `index` at position `destination` to each of the prompt's positions, `[length]`.

    Args:
        sae: An SAE on `hook_z`, with `d_in = n_heads * head_dim`.
        index: The feature.
        attention: Pattern and values of the SAE's layer for the whole batch.
        row: The prompt's row in the batch.
        length: The prompt's length; what lies behind it is padding.
        destination: Position whose activation is explained.

    Raises:
        InvalidRequest: The SAE does not read concatenated heads.
    """
    pattern = attention.pattern[row, :, destination, :length]
    values = attention.values[row, :, :length]
    n_heads, head_dim = pattern.shape[0], values.shape[-1]
    encoder = sae.encoder_vector(index)
    if encoder.numel() != n_heads * head_dim:
        raise InvalidRequest(
            f"DFA expects a hook_z encoder with d_in = n_heads * head_dim ({n_heads} * {head_dim}); "
            f"{sae.source} has d_in = {encoder.numel()}."
        )
    dtype = torch.promote_types(torch.promote_types(pattern.dtype, values.dtype), encoder.dtype)
    if dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32
    heads = encoder.to(values.device, dtype).view(n_heads, head_dim)
    values = values.to(dtype).repeat_interleave(n_heads // values.shape[0], dim=0)
    contributions = torch.einsum("hsd,hd->hs", values, heads)
    return (pattern.to(dtype) * contributions).sum(0)
