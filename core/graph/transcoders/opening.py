"""Opening a transcoder set by name, checked against the model that it is for."""

from pathlib import Path

import torch

from core.errors import InvalidRequest
from core.graph.transcoders.activations import TopK
from core.graph.transcoders.budget import ByteBudget
from core.graph.transcoders.files import PICKLES, open_weights
from core.graph.transcoders.layer import Expected, LayerWeights, read_layer
from core.graph.transcoders.location import SetLocation, locate
from core.graph.transcoders.stored import StoredTranscoders
from core.graph.transcoders.transcoder import TranscoderShape


def open_transcoders(
    name: str,
    *,
    n_layers: int,
    d_model: int,
    device: torch.device | str,
    dtype: torch.dtype,
    lazy_encoder: bool,
    budget_bytes: int,
) -> StoredTranscoders:
    """Opens a set. Blocks on disk, or on the hub where files are not cached yet; downloads this set's files only.

    Args:
        name: What `location.locate` understands.
        n_layers: Layers of the model; each needs a transcoder.
        d_model: Width of its residual stream.
        device: Where encoders and rows go.
        dtype: In which precision.
        lazy_encoder: Whether encoders stay in their files, which costs time and saves their size in memory.
        budget_bytes: Most bytes that the files may hold in memory between calls.

    Raises:
        NotFound: There is no such set, or a layer's file is missing.
        InvalidRequest: The set does not fit the model, or its files can not be read safely.
        Unavailable: The hub can not be asked, and files are not in the cache.
    """
    location = locate(name)
    _check_layers(location, n_layers)
    layers = [_open_layer(location, layer, n_layers, d_model) for layer in range(n_layers)]
    features = {weights.n_features for weights in layers}
    if len(features) > 1:
        raise InvalidRequest(
            f"The layers of {location.name} differ in width: {', '.join(map(str, sorted(features)))} features.",
            "All layers of a set have the same number of features.",
        )
    shape = TranscoderShape(
        name=location.name,
        n_layers=n_layers,
        n_features=features.pop(),
        d_model=d_model,
        cross_layer=location.cross_layer,
        reads=location.reads,
        writes=location.writes,
    )
    _check_top_k(location, layers)
    return StoredTranscoders(
        shape,
        layers,
        activation=None if location.k is None else TopK(location.k),
        device=torch.device(device),
        dtype=dtype,
        lazy_encoder=lazy_encoder,
        budget=ByteBudget(budget_bytes),
    )


def _open_layer(location: SetLocation, layer: int, n_layers: int, d_model: int) -> LayerWeights:
    files = [open_weights(place.fetch()) for place in location.layer_files(layer)]
    return read_layer(files, Expected(layer, n_layers, d_model, location.cross_layer, location.encoder_by_columns))


def _check_layers(location: SetLocation, n_layers: int) -> None:
    """Refuses a set for another depth, and pickles, as far as that shows without opening files."""
    if location.files and len(location.files) != n_layers:
        raise InvalidRequest(
            f"{location.name} has transcoders for {len(location.files)} layers, but the model has {n_layers}.",
            "Name transcoders that were trained on this model.",
        )
    if location.folder.repo is not None or location.files:
        return
    folder = Path(location.folder.path)
    if any(Path(file.path).is_file() for file in location.layer_files(n_layers)):
        raise InvalidRequest(
            f"{location.name} has a transcoder for layer {n_layers}, but the model's last is {n_layers - 1}.",
            "Name transcoders that were trained on this model.",
        )
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles and not any(folder.glob("*.safetensors")):
        raise InvalidRequest(
            f"{location.name} has only pickles, such as {pickles[0]}, and those are not opened.",
            "Convert them to safetensors.",
        )


def _check_top_k(location: SetLocation, layers: list[LayerWeights]) -> None:
    if location.k is None:
        return
    if any(weights.threshold is not None for weights in layers):
        raise InvalidRequest(
            f"{location.name} says topk, but has thresholds.", "Correct the activation in its config.yaml."
        )
    if location.k > layers[0].n_features:
        raise InvalidRequest(
            f"{location.name} says topk with k {location.k}, but has {layers[0].n_features} features.",
            "Correct k in its config.yaml.",
        )
