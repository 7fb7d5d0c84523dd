"""The texts that activations are cached over, as token windows of one length in parts of a fixed number.

    texts --documents--> str --tokenise, join, cut--> windows [context] --number--> parts [windows, context]

Documents are joined by the tokenizer's end-of-sequence token and cut into windows without padding, so that every token
costs the same; each window starts with BOS if asked, because published SAEs were trained on sequences that do. The
order is that of the files, and a part holds the same windows whoever makes it: what is cached of it depends on nothing
else, and a job that stopped takes up at the first part that is missing.

Deliberately not here: shuffling (take a shuffled data set) and anything over a network but the data set's own library.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InvalidRequest, Unavailable
from core.prompts import PromptTokenizer

_ROWS_AT_ONCE = 1024  # rows of a parquet file in memory


@dataclass(frozen=True, slots=True)
class FileTexts:
    """Local files, read in the order given; of a folder, all that it holds, by name.

    Attributes:
        paths: `.txt` (documents end at an empty line), `.jsonl` (one object per line) or `.parquet`.
        column: The field that holds the text, where there are fields.
    """

    paths: tuple[str, ...]
    column: str = "text"


@dataclass(frozen=True, slots=True)
class DatasetTexts:
    """A Hugging Face data set; offline, one that is in the cache.

    Attributes:
        repo: Repository id or local folder.
        split: Split, slices allowed (`train[:1%]`).
        name: Configuration, if it has several.
        column: The column that holds the text.
        revision: Commit or branch.
    """

    repo: str
    split: str = "train"
    name: str | None = None
    column: str = "text"
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class DemoTexts:
    """Documents of the micro-world that the demo model was trained on, written on the spot.

    Attributes:
        count: How many documents.
        seed: Which ones.
    """

    count: int
    seed: int = 0


Texts = FileTexts | DatasetTexts | DemoTexts


@dataclass(frozen=True, slots=True)
class WindowShape:
    """How texts are cut.

    Attributes:
        context_tokens: Tokens of a window, BOS included.
        prepend_bos: Whether windows start with BOS, where the tokenizer has one.
        windows_per_part: Windows of a part; the last part may have fewer.
    """

    context_tokens: int = 256
    prepend_bos: bool = True
    windows_per_part: int = 256

    def __post_init__(self) -> None:
        if not 2 <= self.context_tokens <= 2**16 or not 1 <= self.windows_per_part <= 2**16:
            raise InvalidRequest(
                f"Windows of {self.context_tokens} tokens, {self.windows_per_part} to a part, can not be cached.",
                "A window has 2 to 65536 tokens and a part 1 to 65536 windows.",
            )


@dataclass(frozen=True, slots=True)
class TokenPart:
    """Consecutive windows.

    Attributes:
        number: Which part, from 0.
        first_window: Number of its first window in the corpus.
        tokens: Token ids, `[windows, context]` int32.
    """

    number: int
    first_window: int
    tokens: NDArray[np.int32]


def documents(texts: Texts) -> Iterator[str]:
    """The documents, in order.

    Raises:
        InvalidRequest: A file is missing, of a kind that is not read, or lacks the column.
        Unavailable: The data set could not be had.
    """
    if isinstance(texts, DemoTexts):
        from core.demo.corpus import documents as demo_documents

        yield from (document.text for document in demo_documents(texts.seed, texts.count))
    elif isinstance(texts, DatasetTexts):
        yield from _dataset(texts)
    else:
        for path in _files(texts.paths):
            yield from _READERS[path.suffix](path, texts.column)


def token_parts(
    texts: Iterable[str], tokenizer: PromptTokenizer, shape: WindowShape, max_windows: int
) -> Iterator[TokenPart]:
    """Cuts documents into at most `max_windows` windows; a rest shorter than a window is left out."""
    windows = _windows(texts, tokenizer, shape)
    first = 0
    while first < max_windows:
        rows: list[NDArray[np.int32]] = []
        for window in windows:
            rows.append(window)
            if len(rows) == min(shape.windows_per_part, max_windows - first):
                break
        if not rows:
            return
        yield TokenPart(first // shape.windows_per_part, first, np.stack(rows))
        first += len(rows)


def _windows(texts: Iterable[str], tokenizer: PromptTokenizer, shape: WindowShape) -> Iterator[NDArray[np.int32]]:
    start = [tokenizer.bos_id] if shape.prepend_bos and tokenizer.bos_id is not None else []
    end: int | None = tokenizer.hf.eos_token_id
    room = shape.context_tokens - len(start)
    pending: list[int] = []
    for text in texts:
        pending += tokenizer.encode_rendered(text).ids
        if end is not None:
            pending.append(end)
        at = 0
        while len(pending) - at >= room:
            yield np.array([*start, *pending[at : at + room]], dtype=np.int32)
            at += room
        del pending[:at]


def _files(paths: Iterable[str]) -> Iterator[Path]:
    for name in paths:
        path = Path(name)
        found = sorted(child for child in path.rglob("*") if child.is_file()) if path.is_dir() else [path]
        for file in found:
            if not file.is_file():
                raise InvalidRequest(f"There is no file '{file.name}'.")
            if file.suffix not in _READERS:
                raise InvalidRequest(
                    f"'{file.name}' is not a kind of file that texts are read from.",
                    f"Kinds are {', '.join(_READERS)}.",
                )
            yield file


def _read_text(path: Path, _: str) -> Iterator[str]:
    lines: list[str] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                lines.append(line)
            elif lines:
                yield "".join(lines)
                lines = []
    if lines:
        yield "".join(lines)


def _read_jsonl(path: Path, column: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError:
                    raise InvalidRequest(f"Line {number} of '{path.name}' is not JSON.") from None
                yield _text_of(row, column, f"line {number} of '{path.name}'")


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    from pyarrow import parquet

    file: Any = parquet.ParquetFile(path)
    if column not in file.schema_arrow.names:
        raise InvalidRequest(
            f"'{path.name}' has no column '{column}'.", f"It has {', '.join(file.schema_arrow.names)}."
        )
    for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[column]):
        for row in batch.to_pylist():
            yield _text_of(row, column, f"'{path.name}'")


def _dataset(texts: DatasetTexts) -> Iterator[str]:
    from datasets import load_dataset

    try:
        rows: Any = load_dataset(texts.repo, texts.name, split=texts.split, revision=texts.revision)
    except Exception as error:
        raise Unavailable(
            f"The data set '{texts.repo}' could not be loaded ({type(error).__name__}).",
            "Offline clusters need it in the Hugging Face cache of the node that reads it.",
        ) from error
    for row in rows:
        yield _text_of(row, texts.column, f"'{texts.repo}'")


def _text_of(row: Any, column: str, where: str) -> str:
    text = row.get(column) if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise InvalidRequest(f"There is no text under '{column}' in {where}.", "Name the column that holds the text.")
    return text


_READERS = {".txt": _read_text, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
