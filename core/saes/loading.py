"""Bringing an SAE into memory, the way every activation on the wire assumes.

Two transforms follow the load, as Neuronpedia's server applies them, so that numbers agree with published ones:

- decoder norms are folded into the encoder wherever SAELens says that this does not change which features fire;
- `hook_z` reshaping is off, because the engine hands over heads already concatenated.
"""

import warnings
from typing import Any

from core.catalogue.sources import Folder, Source
from core.errors import Unavailable
from core.saes.encoder import LoadedSae


def load_sae(source: Source, *, dtype: str) -> LoadedSae:
    """Loads one SAE into host memory. Blocks on disk, or on the hub when the weights are not cached yet.

    Raises:
        Unavailable: The weights could not be had.
    """
    try:
        with warnings.catch_warnings():
            # SAELens suggests other model weights for some SAEs; published activations come from the plain ones.
            warnings.filterwarnings("ignore", message=r"\s*This SAE has non-empty model_from_pretrained_kwargs")
            sae = _read(source, dtype)
    except Exception as error:
        raise Unavailable(
            f"The weights of {source.id} could not be loaded ({type(error).__name__}).",
            "See the replica's log. Offline clusters need the weights in the Hugging Face cache of every node.",
        ) from error
    sae.turn_off_forward_pass_hook_z_reshaping()
    _fold_decoder_norms(sae)
    return LoadedSae(source.id, source.hook_name, sae.eval().requires_grad_(False))


def _read(source: Source, dtype: str) -> Any:
    from sae_lens import SAE

    if isinstance(source.origin, Folder):
        return SAE.load_from_disk(source.origin.path, device="cpu", dtype=dtype)
    return SAE.from_pretrained(source.origin.release, source.origin.sae_id, device="cpu", dtype=dtype)


def _fold_decoder_norms(sae: Any) -> None:
    try:
        sae.fold_W_dec_norm()
    except NotImplementedError:
        return  # SAELens refuses where folding would change which features fire: some top-k, temporal
