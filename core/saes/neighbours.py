"""Features whose decoder rows point the same way."""

import torch

from core.errors import InvalidRequest
from core.saes.encoder import LoadedSae

_EPSILON = 1e-8
MAX_NEIGHBOURS = 128


@torch.inference_mode()
def nearest_by_decoder(sae: LoadedSae, query: torch.Tensor, k: int) -> tuple[list[int], list[float]]:
    """The `k` features whose decoder rows have the largest cosine with `query` `[d]`.

    `cos_i = (W_dec[i] . q) / max(|W_dec[i]| |q|, 1e-8)`: dot products in the decoder's precision, norms in float32, as
    Neuronpedia's server computes them. A row that is not a number ranks last and is reported as 0. At least one and at
    most 128 features are returned.

    Raises:
        InvalidRequest: `query` does not have the decoder's width.
    """
    decoder = sae.sae.W_dec
    if query.numel() != decoder.shape[1]:
        raise InvalidRequest(
            f"The vector has {query.numel()} numbers but the decoder of {sae.source} has width {decoder.shape[1]}.",
            "Send a vector of the decoder's width.",
        )
    query = query.to(decoder.device)
    dots = (decoder @ query.to(decoder.dtype)).float()
    norms = sae.decoder_norms() * torch.linalg.vector_norm(query, dtype=torch.float32)
    cosines = (dots / norms.clamp(min=_EPSILON)).clamp(-1.0, 1.0)
    ranked = torch.where(cosines.isnan(), -torch.inf, cosines)
    best = torch.topk(ranked, max(1, min(k, MAX_NEIGHBOURS, sae.d_sae)))
    values = torch.where(best.values.isinf(), 0.0, best.values)
    return best.indices.tolist(), values.tolist()


def decoder_row(sae: LoadedSae, index: int) -> torch.Tensor:
    """Decoder row of a feature, `[d]`."""
    sae.check_index(index)
    return sae.sae.W_dec[index]
