"""Single tensors of a Hugging Face checkpoint, read by name out of its safetensors files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor

from core.errors import InvalidRequest
from core.graph.linear.family import Family, decoder_prefix

_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The text decoder of one local checkpoint.

    Attributes:
        files: Tensor name to the file that holds it.
        prefix: What stands before the decoder's names.
    """

    files: dict[str, Path]
    prefix: str

    @classmethod
    def open(cls, folder: Path, family: Family) -> Self:
        """Looks up which file holds what.

        Raises:
            InvalidRequest: There are no safetensors weights, or none of this family.
        """
        files = _files(folder)
        return cls(files, decoder_prefix(family, files.__contains__))

    def read(self, name: str) -> Tensor:
        """A tensor of the decoder."""
        from safetensors import safe_open

        full = self.prefix + name
        with safe_open(self.files[full], "pt") as file:
            return file.get_tensor(full)


def _files(folder: Path) -> dict[str, Path]:
    if (folder / _INDEX).is_file():
        listed: dict[str, str] = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in listed.items()}
    if (folder / _WHOLE).is_file():
        from safetensors import safe_open

        with safe_open(folder / _WHOLE, "pt") as file:
            return dict.fromkeys(file.keys(), folder / _WHOLE)
    raise InvalidRequest(f"{folder} has no safetensors weights.", "Save the model with save_pretrained.")
