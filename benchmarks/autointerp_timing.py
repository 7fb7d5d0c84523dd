"""What a process of `make bench-autointerp` is told, what it answers, and how long each latent took."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

Found = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AskingOrder:
    """Explaining and scoring.

    Attributes:
        cases: Folder that `autointerp_cases` made.
        url: The provider.
        latents: How many latents.
        at_once: What is done at once: latents by delphi, calls by us.
    """

    cases: str
    url: str
    latents: int
    at_once: int

    @classmethod
    def read(cls, words: Sequence[str]) -> Self:
        """Reads a command line."""
        (word,) = words
        return cls(**json.loads(word))

    @property
    def words(self) -> list[str]:
        """The command line."""
        return [json.dumps(asdict(self))]

    @property
    def folder(self) -> Path:
        """The cases' folder."""
        return Path(self.cases)


@dataclass(frozen=True, slots=True)
class CachingOrder:
    """Caching.

    Attributes:
        cases: Folder that `autointerp_cases` made.
        engine: `ours`, or `delphi`.
        n_tokens: Tokens of the corpus.
        batch_windows: Windows of one forward pass, delphi only; None: ours.
        threads: torch's threads.
    """

    cases: str
    engine: str
    n_tokens: int
    batch_windows: int | None
    threads: int

    @classmethod
    def read(cls, words: Sequence[str]) -> Self:
        """Reads a command line."""
        (word,) = words
        return cls(**json.loads(word))

    @property
    def words(self) -> list[str]:
        """The command line."""
        return [json.dumps(asdict(self))]


@dataclass(slots=True)
class Stopwatch:
    """How long each latent took, from its first step to its last.

    Attributes:
        clock: Reads the time, in seconds.
    """

    clock: Callable[[], float] = time.perf_counter
    _began_s: dict[int, float] = field(default_factory=dict[int, float])
    _ended_s: dict[int, float] = field(default_factory=dict[int, float])

    def begin(self, latent: int) -> None:
        """A step of a latent begins."""
        if latent not in self._began_s:
            self._began_s[latent] = self.clock()

    def end(self, latent: int) -> None:
        """A step of a latent has ended."""
        self._ended_s[latent] = self.clock()

    @property
    def seconds(self) -> list[float]:
        """By latent, ascending."""
        return sorted(self._ended_s[latent] - began_s for latent, began_s in self._began_s.items())


def report(found: Found) -> None:
    """Hands what was found to the process that ordered it."""
    print(json.dumps(found), flush=True)
