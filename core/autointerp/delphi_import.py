"""The one door to delphi 0.1.3.

delphi imports vLLM with its clients, for a client that nothing here uses; importing vLLM takes half a minute and a CPU
image has none. So a placeholder takes the place of that client before delphi is first imported. delphi itself is heavy
(torch, faiss, sentence-transformers: seconds and half a gigabyte), so nothing imports it before it is asked something.

Also here is what delphi needs to be right with transformers 5, where `batch_decode` of a list of token ids gives one
text instead of one per token. Given a raw tokenizer, delphi then loses its marks without an error.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from threading import Lock
from types import ModuleType
from typing import Any, Final, Protocol

_OFFLINE: Final = "delphi.clients.offline"
_first_import = Lock()


def delphi_module(name: str) -> Any:
    """A module of delphi, by its name below `delphi`, for example `scorers.classifier.fuzz`.

    Args:
        name: The name.

    Returns:
        The module, whose types nothing here knows.
    """
    with _first_import:
        if _OFFLINE not in sys.modules:
            placeholder = ModuleType(_OFFLINE, "Stands in for delphi's client of a vLLM in this process.")
            placeholder.__dict__["Offline"] = type("Offline", (), {})
            sys.modules[_OFFLINE] = placeholder
        return import_module(f"delphi.{name}")


class _Decodes(Protocol):
    def batch_decode(self, sequences: Any, **options: Any) -> list[str]: ...


class PerTokenDecoding:
    """A tokenizer whose `batch_decode` of one sequence gives one text per token, on transformers 4 and 5 alike."""

    def __init__(self, tokenizer: _Decodes) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """The text of each token of one sequence, or of each of several sequences.

        Args:
            sequences: Token ids, `[pos]` or `[batch, pos]`: lists, an array or a tensor.
            options: For the tokenizer.

        Returns:
            Texts.
        """
        rows: Sequence[Any] = sequences.tolist() if hasattr(sequences, "tolist") else list(sequences)
        if rows and isinstance(rows[0], int):
            rows = [[token] for token in rows]
        return [] if not rows else self._tokenizer.batch_decode(rows, **options)
