"""Random SAEs as source sets in folders, so that they are cached like any other.

Each has the norms, biases and thresholds of a true SAE and directions that mean nothing (`core.autointerp.baselines`).
The same seed writes the same weights. A folder that is there already is used as it is.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.autointerp.baselines import Directions, random_directions
from core.autointerp.jobs.sources import split_source, true_source
from core.autointerp.seeds import derive_seed
from core.catalogue.catalogue import find_sources
from core.errors import InvalidRequest

if TYPE_CHECKING:
    from core.catalogue.sources import Source


def random_sets(
    model: str, sources: Sequence[str], set_folders: Mapping[str, str], folder: Path, seed: int
) -> Mapping[str, str]:
    """Writes the SAEs of random sources.

    Args:
        model: The model.
        sources: Random source ids.
        set_folders: True source sets that lie in local folders.
        folder: Where to write.
        seed: Which directions.

    Returns:
        The folder of each random source set.

    Raises:
        InvalidRequest: A true SAE is of a kind whose directions are more than an encoder and a decoder.
    """
    folders: dict[str, str] = {}
    for source in sources:
        random_set, true = split_source(source)[1], true_source(source)
        folders[random_set] = str(folder / random_set)
        if not (folder / random_set / source / "cfg.json").is_file():
            found = find_sources(model, (split_source(true)[1],), set_folders)
            (described,) = (one for one in found if one.id == true)
            _write(described, folder / random_set / source, seed)
    return folders


def _write(source: "Source", folder: Path, seed: int) -> None:
    import torch

    from core.saes.loading import load_sae

    loaded: Any = load_sae(source, dtype="float32").sae
    if loaded.W_enc.shape != loaded.W_dec.T.shape:
        raise InvalidRequest(f"A random SAE of the shape of {source.id} can not be made.", "Leave random-sae out.")
    drawn = random_directions(Directions(loaded.W_enc.data, loaded.W_dec.data), derive_seed(seed, source.id) >> 1)
    with torch.no_grad():
        loaded.W_enc.copy_(drawn.encoder)
        loaded.W_dec.copy_(drawn.decoder)
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    loaded.save_model(part)
    part.rename(folder)
