"""The rows that are being written right now, and the forward passes that give each its next token.

    advance(leaving)    leaving rows go, and every other one gets its next token in one pass with a cache
    begin(rows)         prompts are read together, get their first token, and join

Rows join and leave between tokens, so a short text never waits for a long one. A row's tokens depend on its own prompt,
steering, rules and seed only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from core.engine.capture import pad_right
from core.engine.model import EagerModel
from core.errors import InvalidRequest
from core.generation.cache import RowCache
from core.generation.masks import AttentionMasks
from core.generation.requests import Continuation, Finish, MeansRequest
from core.generation.sampling import Choice, Chooser, choose
from core.questions import Floats
from core.readings.messages import span_means
from core.steering.writing import RowSteering, SteeringHooks

Gain = Choice | Exception
_OVERFLOW: Final = "The text can not go on: the model's activations are no longer finite numbers."


@dataclass(slots=True, eq=False)
class Row:
    """One continuation in progress.

    Attributes:
        continuation: What was asked.
        steering: What is done to it; None leaves it alone.
        chooser: Chooses its tokens.
        last: Its newest token.
        n_tokens: Number of tokens generated.
        finish: Why it ended, once it has.
        failed: Whether it can not go on.
    """

    continuation: Continuation
    steering: RowSteering | None
    chooser: Chooser = field(init=False)
    last: int = -1
    n_tokens: int = 0
    finish: Finish | None = None
    failed: bool = False

    def __post_init__(self) -> None:
        self.chooser = Chooser(self.continuation.sampling)

    @property
    def ended(self) -> bool:
        """Whether it gets no more tokens."""
        return self.failed or self.finish is not None

    @property
    def room(self) -> int:
        """Positions that it needs at most."""
        return len(self.continuation.prompt) + self.continuation.sampling.max_tokens

    def take(self, choice: Choice) -> None:
        """Appends a token, which may be the last one."""
        self.last = choice.token
        self.n_tokens += 1
        if choice.token in self.continuation.sampling.stop_ids:
            self.finish = "stop"
        elif self.n_tokens == self.continuation.sampling.max_tokens:
            self.finish = "length"


class RowBatch:
    """The running batch of one model. Everything here touches the device, so it runs on the device's thread."""

    def __init__(self, model: EagerModel) -> None:
        self._model = model
        self._masks = AttentionMasks(model.module)
        self._cache = RowCache()
        self._rows: list[Row] = []
        self._hooks: SteeringHooks | None = None

    @torch.inference_mode()
    def advance(self, leaving: Sequence[Row]) -> list[tuple[Row, Gain]]:
        """One more token for every row.

        Returns:
            Each row's new token, or why there is none. Rows that have `ended` then have left.
        """
        self._drop(leaving)
        gained = self._decode() if self._rows else []
        self._drop([row for row, _ in gained if row.ended])
        return gained

    @torch.inference_mode()
    def begin(self, rows: Sequence[Row]) -> list[tuple[Row, Gain]]:
        """The first token of rows, which join unless they have `ended` with it.

        If it fails, none has joined and the others are as they were.

        Returns:
            As `advance`.
        """
        lengths = [len(row.continuation.prompt) for row in rows]
        ids = pad_right([row.continuation.prompt for row in rows]).to(self._model.device)
        hooks = self._steering(rows)
        self._cache.join(lengths)
        active = torch.tensor([prompt_mask(row.continuation, ids.shape[1]) for row in rows], device=ids.device)
        with hooks.attached(active):
            logits = self._model.next_logits(
                ids,
                torch.arange(ids.shape[1], device=ids.device).expand_as(ids),
                self._masks.prefill(ids.shape[1], ids.device),
                self._cache,
                torch.tensor([length - 1 for length in lengths], device=ids.device),
            )
        gained = _choose(logits, rows)
        self._cache.commit()
        self._rows += rows
        self._hooks = None
        self._drop([row for row in rows if row.ended])
        return gained

    def _decode(self) -> list[tuple[Row, Gain]]:
        device = self._model.device
        if self._hooks is None:
            self._hooks = self._steering(self._rows)
        ids = torch.tensor([[row.last] for row in self._rows], device=device)
        active = torch.tensor([[steers_generated(row.continuation)] for row in self._rows], device=device)
        lengths = self._cache.lengths
        self._cache.extend(device)
        with self._hooks.attached(active):
            logits = self._model.next_logits(
                ids,
                torch.tensor(lengths, device=device).unsqueeze(1),
                self._masks.decode(lengths, device),
                self._cache,
                torch.zeros(len(lengths), dtype=torch.long, device=device),
            )
        self._cache.commit()
        return _choose(logits, self._rows)

    def _steering(self, rows: Sequence[Row]) -> SteeringHooks:
        steered = {at: row.steering for at, row in enumerate(rows) if row.steering is not None}
        return SteeringHooks(self._model.hook_points, steered, self._model.device)

    def _drop(self, leaving: Sequence[Row]) -> None:
        for row in leaving:
            if row in self._rows:
                at = self._rows.index(row)
                self._cache.drop(at)
                self._rows[at] = self._rows[-1]
                self._rows.pop()
                self._hooks = None


def _choose(logits: torch.Tensor, rows: Sequence[Row]) -> list[tuple[Row, Gain]]:
    """Each row's next token; a row whose `logits` `[rows, vocab]` are no numbers fails alone."""
    sound: list[bool] = logits.amax(-1).isfinite().tolist()
    for row, is_sound in zip(rows, sound, strict=True):
        row.failed = not is_sound
    whole = [row for row in rows if not row.failed]
    kept = logits if len(whole) == len(rows) else logits[sound]
    choices = iter(choose(kept, [row.chooser for row in whole])) if whole else iter(())
    gained: list[tuple[Row, Gain]] = []
    for row in rows:
        if row.failed:
            gained.append((row, InvalidRequest(_OVERFLOW, "Steer with less strength.")))
        else:
            choice = next(choices)
            row.take(choice)
            gained.append((row, choice))
    return gained


def prompt_mask(continuation: Continuation, positions: int) -> list[bool]:
    """Which of `positions` prompt positions are steered; what lies behind the prompt is not."""
    steering = continuation.steering
    if steering is None or steering.positions == "generated":
        return [False] * positions
    spared = frozenset(() if steering.special_tokens else continuation.special_positions)
    return [at < len(continuation.prompt) and at not in spared for at in range(positions)]


def steers_generated(continuation: Continuation) -> bool:
    """Whether positions of generated tokens are steered."""
    return continuation.steering is not None and continuation.steering.positions != "prompt"


@torch.inference_mode()
def read_means(model: EagerModel, request: MeansRequest, steering: RowSteering | None) -> Floats:
    """Mean activations `[spans, d]` of a text, in one pass that ends at the hook point."""
    n_prompt = len(request.continuation.prompt)
    mask = prompt_mask(request.continuation, len(request.tokens))
    mask[n_prompt:] = [steers_generated(request.continuation)] * (len(mask) - n_prompt)
    hooks = SteeringHooks(model.hook_points, {} if steering is None else {0: steering}, model.device)
    # Registered before the reading hook, so that what is read has been steered.
    with hooks.attached(torch.tensor([mask], device=model.device)):
        name = request.place.name
        activation = model.capture([request.tokens], [name]).activations[name][0]
    return span_means(activation, request.spans).cpu().numpy()
