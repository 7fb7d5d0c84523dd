"""One layer's weights by their roles, whichever names and orientations a format has for them.

               circuit-tracer PLT             circuit-tracer CLT      SAELens, Gemma Scope   Gemma Scope 2
    encoder    W_enc [F, d]                   W_enc_{i} [F, d]        W_enc [d, F]           w_enc [d, F]
    decoder    W_dec [F, d]                   W_dec_{i} [F, L-i, d]   W_dec [F, d]           w_dec [F, d], [F, L, d]
    threshold  activation_function.threshold  threshold_{i}           threshold              threshold
    skip       W_skip, x @ W.T                W_skip_{i}, x @ W       W_skip, x @ W.T        affine_skip_connection,
                                                                                             x @ W

A tensor that plays none of these roles belongs to an architecture that is not known here, so it is refused rather than
left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from torch import Tensor

from core.errors import InvalidRequest
from core.graph.transcoders.files import WeightFile

_ROLES: Final = {
    "w_enc": "encoder",
    "w_dec": "decoder",
    "b_enc": "encoder_bias",
    "b_dec": "decoder_bias",
    "threshold": "threshold",
    "w_skip": "skip",
    "affine_skip_connection": "skip",
}
_NO_WEIGHTS: Final = frozenset({"k"})
_REQUIRED: Final = ("encoder", "decoder", "encoder_bias", "decoder_bias")


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A tensor in a file.

    Attributes:
        file: The file.
        name: Its name there.
        transposed: Whether the file has rows and columns the other way round.
    """

    file: WeightFile
    name: str
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, the right way round."""
        shape = self.file.shapes[self.name]
        return shape[::-1] if self.transposed else shape

    def read(self) -> Tensor:
        """All of it, the right way round, in host memory; not to be written to."""
        tensor = self.file.tensor(self.name)
        return tensor.T if self.transposed else tensor


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """Where the weights of one layer's transcoder are.

    Attributes:
        encoder: `[F, d]`.
        decoder: `[F, d]`, or of a cross-layer transcoder `[F, slots, d]`.
        encoder_bias: `[F]`.
        decoder_bias: `[d]`.
        threshold: `[F]`, of a JumpReLU.
        skip: `[d, d]`; the output gains `x @ skip.T`.
        first_slot: Slot of the decoder that writes to the layer itself.
        rectified: Whether the format's JumpReLU passes nothing below 0, whatever the threshold.
    """

    encoder: Stored
    decoder: Stored
    encoder_bias: Stored
    decoder_bias: Stored
    threshold: Stored | None
    skip: Stored | None
    first_slot: int
    rectified: bool

    @property
    def n_features(self) -> int:
        """Features, F."""
        return self.encoder_bias.shape[0]

    @property
    def files(self) -> tuple[WeightFile, ...]:
        """The files, each once."""
        present = [self.encoder, self.decoder, self.encoder_bias, self.decoder_bias, self.threshold, self.skip]
        return tuple({id(one.file): one.file for one in present if one is not None}.values())


@dataclass(frozen=True, slots=True)
class Expected:
    """What a layer has to be.

    Attributes:
        layer: Number of the layer.
        n_layers: Layers of the model, L.
        d_model: Width of its residual stream, d.
        cross_layer: Whether features write to later layers, too.
        encoder_by_columns: Whether the format stores encoders `[d, F]`; npz and lower-case names say so themselves.
    """

    layer: int
    n_layers: int
    d_model: int
    cross_layer: bool
    encoder_by_columns: bool


def read_layer(files: Sequence[WeightFile], expected: Expected) -> LayerWeights:
    """Finds the roles of all tensors of a layer's files. Reads no weights.

    Raises:
        InvalidRequest: A tensor is missing or unknown, or a shape contradicts the model.
    """
    found: dict[str, Stored] = {}
    for file in files:
        for name in file.shapes:
            role = _role(name, file, expected.layer)
            if role is not None:
                found[role] = Stored(file, name)
    where = " and ".join(file.path.name for file in files)
    missing = [role for role in _REQUIRED if role not in found]
    if missing:
        raise InvalidRequest(f"{where} has no {missing[0].replace('_', ' ')}.", "Check that the file is whole.")
    by_columns = expected.encoder_by_columns or _stores_columns(found["encoder"])
    weights = LayerWeights(
        encoder=replace(found["encoder"], transposed=by_columns),
        decoder=found["decoder"],
        encoder_bias=found["encoder_bias"],
        decoder_bias=found["decoder_bias"],
        threshold=found.get("threshold"),
        skip=_oriented_skip(found.get("skip"), expected),
        first_slot=expected.layer if expected.cross_layer and by_columns else 0,
        rectified=by_columns,
    )
    _check(weights, expected, where)
    return weights


def _role(name: str, file: WeightFile, layer: int) -> str | None:
    plain = name.removeprefix("activation_function.").removesuffix(f"_{layer}").lower()
    if plain in _NO_WEIGHTS:
        return None
    if plain not in _ROLES:
        raise InvalidRequest(
            f"{file.path.name} holds a tensor '{name}' that no transcoder known here has.",
            "Known are per-layer and cross-layer transcoders with ReLU, JumpReLU or TopK and skip matrices.",
        )
    return _ROLES[plain]


def _stores_columns(encoder: Stored) -> bool:
    return encoder.file.path.suffix == ".npz" or encoder.name.startswith("w")


def _oriented_skip(skip: Stored | None, expected: Expected) -> Stored | None:
    if skip is None:
        return None
    return replace(skip, transposed=expected.cross_layer or skip.name.startswith("affine"))


def _check(weights: LayerWeights, expected: Expected, where: str) -> None:
    features, width = weights.n_features, expected.d_model
    slots = expected.n_layers - expected.layer + weights.first_slot
    decoder = (features, slots, width) if expected.cross_layer else (features, width)
    wanted: list[tuple[str, Stored | None, tuple[int, ...]]] = [
        ("encoder", weights.encoder, (features, width)),
        ("decoder", weights.decoder, decoder),
        ("encoder bias", weights.encoder_bias, (features,)),
        ("decoder bias", weights.decoder_bias, (width,)),
        ("threshold", weights.threshold, (features,)),
        ("skip matrix", weights.skip, (width, width)),
    ]
    for role, stored, shape in wanted:
        if stored is not None and stored.shape != shape:
            raise InvalidRequest(
                f"The {role} of layer {expected.layer} in {where} has shape {list(stored.shape)}, "
                f"but this model needs {list(shape)}.",
                f"The model has {expected.n_layers} layers of width {width}. Name transcoders that were trained on it.",
            )
