"""The weights of a model's frozen linear map, as a plain value: all that an Attributor needs of a model.

With patterns and norm scales held, queries, keys and MLPs are gone, and what is left of a block is one matrix in and
one out of attention. What does not depend on the prompt is multiplied into them once:

    values[l]  = W_V diag(gain of the norm before) C      C subtracts the mean where norms do, else the identity
    outputs[l] = diag(gain of the norm behind) W_O
    skips[l]   = diag(gain of the norm behind the MLP) W_skip diag(gain of the norm before it) C

so a prompt's norm scales are mere numbers per position, and those are multiplied into its patterns (`frozen`). Biases
are constants and have no part in a linear map.

Deliberately not here: the unembedding. Its few rows that a graph needs come as directions (`targets`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from core.engine.shape import ModelShape
from core.errors import InvalidRequest
from core.graph.linear.checkpoint import Checkpoint
from core.graph.linear.family import Family, decoder_of, family_of
from core.graph.transcoders.transcoder import ReadSite, TranscoderSet, WriteSite


@dataclass(frozen=True, slots=True, eq=False)
class LinearWeights:
    """One model's linear map: tensors and sizes only. Matrices share a device and a dtype, in which rows are computed.

    Attributes:
        n_heads: Query heads.
        n_kv_heads: Key and value heads.
        centred: Whether norms subtract the mean.
        values: Per layer, `[n_kv_heads * head_dim, d]`, from the residual stream to values.
        outputs: Per layer, `[d, n_heads * head_dim]`, from heads to the residual stream.
        read_gains: `[L + 1, d]` float32: gains of the norms before the MLPs, then of the final norm.
        write_gains: `[L, d]` float32: gains of the norms behind the MLPs, ones where there is none.
        skips: Per layer, `[d, d]` from the residual between attention and MLP to the next one; None in a layer whose
            transcoder has no skip matrix. Empty without transcoders that have any.
    """

    n_heads: int
    n_kv_heads: int
    centred: bool
    values: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    read_gains: Tensor
    write_gains: Tensor
    skips: tuple[Tensor | None, ...] = ()

    @classmethod
    def of_model(
        cls, model: Any, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Copies them out of a loaded Hugging Face model; device and dtype are the model's unless given.

        Raises:
            InvalidRequest: The model's family has no linear map here.
        """
        family = family_of(model.config)
        decoder = decoder_of(model, family)
        return cls._built(model.config, family, decoder.get_parameter, device or model.device, dtype or model.dtype)

    @classmethod
    def of_checkpoint(
        cls, folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> Self:
        """Reads them from a local Hugging Face folder, tensor by tensor; nothing else of the model is read.

        Raises:
            InvalidRequest: The model's family has no linear map here, or the folder has no safetensors weights.
        """
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder)
        family = family_of(config)
        return cls._built(config, family, Checkpoint.open(Path(folder), family).read, device, dtype)

    @classmethod
    def _built(
        cls,
        config: Any,
        family: Family,
        read: Callable[[str], Tensor],
        device: str | torch.device,
        dtype: torch.dtype,
    ) -> Self:
        shape = ModelShape.from_config(config)

        def gain(name: str | None) -> Tensor:
            """`[d]` on the device; ones where there is no norm."""
            if name is None:
                return torch.ones(shape.d_model, device=device)
            return family.gain(read(f"{name}.weight")).to(device)

        values: list[Tensor] = []
        outputs: list[Tensor] = []
        reads: list[Tensor] = []
        writes: list[Tensor] = []
        with torch.no_grad():
            for block in map(family.block, range(shape.n_layers)):
                into = family.value_weight(block, read).to(device).float() * gain(block + family.attention_norm)
                values.append(_centred(into, family.centred).to(dtype).contiguous())
                behind = gain(_within(block, family.attention_post_norm))
                out = behind[:, None] * family.output_weight(block, read).to(device).float()
                outputs.append(out.to(dtype).contiguous())
                reads.append(gain(block + family.mlp_norm))
                writes.append(gain(_within(block, family.mlp_post_norm)))
            reads.append(gain(family.final_norm))
        return cls(
            shape.n_heads,
            shape.n_kv_heads,
            family.centred,
            tuple(values),
            tuple(outputs),
            torch.stack(reads),
            torch.stack(writes),
        )

    @property
    def n_layers(self) -> int:
        """L."""
        return len(self.values)

    @property
    def d_model(self) -> int:
        """Width of the residual stream, d."""
        return self.read_gains.shape[1]

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.outputs[0].shape[1] // self.n_heads

    @property
    def dtype(self) -> torch.dtype:
        """What products are computed in; sums are float32."""
        return self.values[0].dtype

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.values[0].device

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors: about `L * 2 * d * (n_heads + n_kv_heads) * head_dim` in half precision."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def gains(self, reads: ReadSite) -> Tensor:
        """`[L + 1, d]` float32: what a target's direction is multiplied by, the last row being the unembedding's."""
        if reads == "mlp_in":
            return self.read_gains
        return torch.cat([torch.ones_like(self.read_gains[:-1]), self.read_gains[-1:]])

    def centres(self, reads: ReadSite) -> tuple[bool, bool]:
        """Whether the mean is subtracted where transcoders read, and where the unembedding does."""
        return self.centred and reads != "resid_mid", self.centred

    def write_gain(self, layer: int, writes: WriteSite) -> Tensor:
        """`[d]` float32: what is between the place that transcoders of a layer write and the residual stream."""
        return self.write_gains[layer] if writes == "mlp_out" else torch.ones_like(self.write_gains[layer])

    def with_skips(self, transcoders: TranscoderSet) -> Self:
        """The same with the skip matrices of a set, if it has any."""
        shape = transcoders.shape
        gains, (centred, _) = self.gains(shape.reads), self.centres(shape.reads)

        def folded(layer: int) -> Tensor | None:
            skip = transcoders.skip(layer)
            if skip is None:
                return None
            into = _centred(skip.detach().to(self.device).float() * gains[layer], centred)
            return (self.write_gain(layer, shape.writes)[:, None] * into).to(self.dtype)

        skips = tuple(folded(layer) for layer in range(self.n_layers))
        return replace(self, skips=skips if any(skip is not None for skip in skips) else ())

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Self:
        """The same on another device, in another dtype; gains stay float32."""
        dtype = dtype or self.dtype
        return replace(
            self,
            values=tuple(tensor.to(device, dtype) for tensor in self.values),
            outputs=tuple(tensor.to(device, dtype) for tensor in self.outputs),
            read_gains=self.read_gains.to(device),
            write_gains=self.write_gains.to(device),
            skips=tuple(None if skip is None else skip.to(device, dtype) for skip in self.skips),
        )

    def save(self, path: str | Path) -> None:
        """Writes them to one safetensors file."""
        from safetensors.torch import save_file

        facts = {"n_heads": self.n_heads, "n_kv_heads": self.n_kv_heads, "centred": int(self.centred)}
        save_file(self._tensors(), path, {name: str(fact) for name, fact in facts.items()})

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Self:
        """Reads what `save` wrote.

        Raises:
            InvalidRequest: The file holds something else.
        """
        from safetensors import safe_open

        with safe_open(path, "pt", device=str(device)) as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if not facts.keys() >= {"n_heads", "n_kv_heads", "centred"}:
            raise InvalidRequest(f"{path} holds no attribution weights.", "Write the file with LinearWeights.save.")
        layers = range(len(tensors["write_gains"]))
        skips = tuple(tensors.get(f"skips.{layer}") for layer in layers)
        return cls(
            int(facts["n_heads"]),
            int(facts["n_kv_heads"]),
            facts["centred"] == "1",
            tuple(tensors[f"values.{layer}"] for layer in layers),
            tuple(tensors[f"outputs.{layer}"] for layer in layers),
            tensors["read_gains"],
            tensors["write_gains"],
            skips if any(skip is not None for skip in skips) else (),
        )

    def _tensors(self) -> dict[str, Tensor]:
        lists = {"values": self.values, "outputs": self.outputs, "skips": self.skips}
        numbered = {f"{name}.{i}": t for name, tensors in lists.items() for i, t in enumerate(tensors) if t is not None}
        return numbered | {"read_gains": self.read_gains, "write_gains": self.write_gains}


def _within(block: str, name: str | None) -> str | None:
    return None if name is None else block + name


def _centred(matrix: Tensor, centred: bool) -> Tensor:
    """`matrix` as it acts on inputs whose mean is subtracted first."""
    return matrix - matrix.mean(1, keepdim=True) if centred else matrix
