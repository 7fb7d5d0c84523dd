"""The autograd engine: rows of a graph by automatic differentiation of the unmodified Hugging Face model.

It is the oracle of the replay engine, and stands in for it where an architecture is unknown to that one. One forward
pass over one prompt is kept with its gradients (`differentiable`), and a batch of rows is one batched backward pass
through it, so what is kept does not grow with the batch. It is still the graph of the whole model: unlike the replay
engine's context it can not leave its process, and its backward passes run over all positions.

It knows nothing of ranking, batch sizes or pruning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from core.engine.model import EagerModel
from core.errors import InvalidRequest
from core.graph.differentiable import FrozenPass, frozen_pass
from core.graph.effects import FeatureNodes
from core.graph.linearised import TargetRows
from core.graph.transcoders.transcoder import TranscoderSet


@dataclass(frozen=True, slots=True, eq=False)
class Autograd:
    """One prompt's linear model as a forward pass to differentiate. A `linearised.Linearised`.

    Attributes:
        token_ids: The prompt, BOS included.
        features: The features that are sources, in node order.
        decoders: What features wrote, activation times decoder row, by layer: `[n, w, d]`; slot j is what was written
            to the j-th layer from their own on.
        errors: What the transcoders missed of the MLP outputs, by layer: `[T, d]`.
        forward: The pass.
        transcoders: Where encoder rows come from.
    """

    token_ids: tuple[int, ...]
    features: FeatureNodes
    decoders: tuple[Tensor, ...]
    errors: tuple[Tensor, ...]
    forward: FrozenPass
    transcoders: TranscoderSet

    @classmethod
    def trace(cls, model: EagerModel, transcoders: TranscoderSet, ids: Sequence[int], *, zeroed: int = 1) -> Self:
        """Runs a prompt and takes it apart into sources. Must run on the thread that owns the model's device.

        Args:
            model: The model, unmodified.
            transcoders: A set made for it.
            ids: The prompt, BOS included.
            zeroed: Positions at the start whose features and errors are no sources, such as BOS.

        Raises:
            InvalidRequest: The set does not fit the model, or the model can not be linearised where the set reads and
                writes.
        """
        model.check_prompt(ids)
        shape = transcoders.shape
        if (shape.n_layers, shape.d_model) != (model.shape.n_layers, model.shape.d_model):
            raise InvalidRequest(
                f"The transcoders '{shape.name}' are for {shape.n_layers} layers of width {shape.d_model}; this model "
                f"has {model.shape.n_layers} of width {model.shape.d_model}."
            )
        with torch.inference_mode(False):
            forward = frozen_pass(
                model,
                torch.tensor(ids, device=model.device),
                shape.reads,
                shape.writes,
                transcoders.skip,
            )
            with torch.no_grad():
                features, decoders, errors = _sources(forward, transcoders, zeroed)
        return cls(tuple(ids), features, decoders, errors, forward, transcoders)

    @property
    def n_layers(self) -> int:
        """Layers of the model, L."""
        return len(self.errors)

    @property
    def logits(self) -> Tensor:
        """What the model predicts after the prompt, `[vocab]`."""
        return self.forward.logits

    def targets(self, chosen: Tensor) -> TargetRows:
        """The rows of features, by their numbers in `features`."""
        layer, index = self.features.layer[chosen], self.features.index[chosen]
        final = self.forward.final
        direction = torch.empty(len(chosen), final.shape[-1], dtype=final.dtype, device=final.device)
        for one in layer.unique().tolist():
            here = layer == one
            direction[here] = self.transcoders.encoder_rows(one, index[here]).to(final)
        return TargetRows(layer, self.features.position[chosen], direction)

    def rows(self, targets: TargetRows) -> Tensor:
        """Effects of every source on the targets, `[B, n + (L + 1) * T]`.

        They are float32, or as wide as the model where that is wider.
        """
        n_sources = len(self.features) + (self.n_layers + 1) * len(self.token_ids)
        effects = self.errors[0].new_zeros(len(targets), n_sources)
        if not len(targets):
            return effects
        device = effects.device
        targets = TargetRows(targets.layer.to(device), targets.position.to(device), targets.direction)
        *slopes, slope = self._slopes(targets, deepest=int(targets.layer.max()))
        for layer, at_write in enumerate(slopes):
            if at_write is not None:
                self._score(layer, at_write.to(effects), effects)
        if slope is not None:
            tokens = self.forward.embedded[0].detach().to(effects)
            effects[:, -len(tokens) :] = torch.einsum("btd,td->bt", slope.to(effects), tokens)
        return effects

    def keep(self, chosen: Tensor) -> Self:
        """The same prompt with these features only, ascending numbers `[K]`; what the others did is left out."""
        old = self.features
        new = FeatureNodes(old.layer[chosen], old.position[chosen], old.index[chosen], old.activation[chosen])
        starts = _starts(old.layer, self.n_layers)
        decoders = tuple(
            decoder[chosen[new.layer == layer] - starts[layer]] for layer, decoder in enumerate(self.decoders)
        )
        return replace(self, features=new, decoders=decoders)

    def _score(self, layer: int, slope: Tensor, effects: Tensor) -> None:
        """Adds the effects of what was written to a layer, given how the targets change with it, `[B, T, d]`."""
        starts = _starts(self.features.layer, self.n_layers)
        for source in range(layer + 1) if self.transcoders.shape.cross_layer else (layer,):
            columns = slice(starts[source], starts[source + 1])
            decoder, effect = self.decoders[source][:, layer - source], effects[:, columns]
            for position, (begin, end) in enumerate(pairwise(_starts(self.features.position[columns], slope.shape[1]))):
                effect[:, begin:end] += slope[:, position] @ decoder[begin:end].T
        first = len(self.features) + layer * slope.shape[1]
        effects[:, first : first + slope.shape[1]] = torch.einsum("btd,td->bt", slope, self.errors[layer])

    def _slopes(self, targets: TargetRows, deepest: int) -> tuple[Tensor | None, ...]:
        """How the targets change with each leaf: MLP outputs below the deepest target, then the embedded tokens.

        Each is `[B, T, d]`, or None if no target depends on it.
        """
        forward = self.forward
        outputs: list[Tensor] = []
        seeds: list[Tensor] = []
        for layer in targets.layer.unique().tolist():
            output = forward.final if layer == self.n_layers else forward.reads[layer]
            here = (targets.layer == layer).nonzero().squeeze(1)
            seed = output.new_zeros(len(targets), *output.shape)
            seed[here, 0, targets.position[here]] = targets.direction[here].to(output)
            outputs.append(output)
            seeds.append(seed)
        leaves = (*forward.writes[:deepest], forward.embedded)
        with torch.inference_mode(False):
            return tuple(None if slope is None else slope[:, 0] for slope in _batched(outputs, leaves, seeds))


def _batched(outputs: list[Tensor], leaves: tuple[Tensor, ...], seeds: list[Tensor]) -> Sequence[Tensor | None]:
    """Gradients for every row of the seeds, at once if the model's operations allow it and one by one if not."""
    try:
        return torch.autograd.grad(outputs, leaves, seeds, retain_graph=True, is_grads_batched=True, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        rows = [
            torch.autograd.grad(outputs, leaves, list(row), retain_graph=True, allow_unused=True)
            for row in zip(*seeds, strict=True)
        ]
    return [None if slopes[0] is None else torch.stack(slopes) for slopes in zip(*rows, strict=True)]


def _sources(
    forward: FrozenPass, transcoders: TranscoderSet, zeroed: int
) -> tuple[FeatureNodes, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Features, what they wrote, and what of the MLP outputs they leave unexplained."""
    wide = torch.promote_types(forward.embedded.dtype, torch.float32)
    missed = [wrote[0].detach().to(wide, copy=True) for wrote in forward.writes]
    nodes: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    decoders: list[Tensor] = []
    for layer, read in enumerate(forward.reads):
        x, error = read[0].detach(), missed[layer]
        active = transcoders.encode(layer, x)
        position, index, value = (part.to(x.device) for part in (active.position, active.index, active.value))
        wrote = transcoders.decoder_rows(layer, index).to(error) * value.to(wide)[:, None, None]
        for slot in range(wrote.shape[1]):
            missed[layer + slot].index_add_(0, position, wrote[:, slot], alpha=-1)
        error -= transcoders.decoder_bias(layer).to(error)
        skip = transcoders.skip(layer)
        if skip is not None:
            error -= x.to(wide) @ skip.to(error).T
        kept = position >= zeroed
        nodes.append((torch.full_like(position[kept], layer), position[kept], index[kept], value[kept].float()))
        decoders.append(wrote[kept])
    for error in missed:
        error[:zeroed] = 0
    features = FeatureNodes(*(torch.cat(parts) for parts in zip(*nodes, strict=True)))
    return features, tuple(decoders), tuple(missed)


def _starts(sorted_numbers: Tensor, count: int) -> list[int]:
    """Where each of the numbers 0..count begins in an ascending tensor; the last one is its length."""
    return torch.searchsorted(sorted_numbers, torch.arange(count + 1, device=sorted_numbers.device)).tolist()
