"""Interventions: one prompt continued twice, left alone and with features held.

    prompt --alone-----------------> base activations, attention patterns, first row --+
    prompt --clamps, patterns------> first row ----------------------------------------+--> both rows, token by token

Prompts are read one after the other, in passes of the same shape, so that what changes nothing changes no bit. From
then on both texts are rows of one batch with a cache, until one of them ends. Clamps of generated tokens act on a token
when the model reads it: the first generated token does not feel them, what follows it does. Attention is frozen in the
prompt only.

A text ends with a stop token, or with as many tokens as were asked for. A row of candidates is reported for every token
from the prompt's last one on, the ending one included; the steered text then gains one more token, which its last row
chose. So both have equally many rows unless one ends early.

Deliberately not here: text (the Gateway's), and batching across requests. Requests take turns on the device's thread,
a token at a time.
"""

from collections import deque
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.deadline import Deadline
from core.device import DeviceExecutor
from core.engine.attention import AttentionReading, recording_attention
from core.engine.model import EagerModel
from core.errors import InvalidRequest, TooLarge
from core.generation.cache import RowCache
from core.generation.masks import AttentionMasks
from core.generation.requests import Sampling
from core.generation.sampling import Chooser, choose
from core.graph.clamps import FeatureClamps
from core.graph.replayed_attention import replayed_attention
from core.graph.requests import InterventionAnswer, InterventionQuestion, WrittenText
from core.graph.transcoders.transcoder import TranscoderSet


@dataclass(slots=True, eq=False)
class _Text:
    """A text in progress.

    Attributes:
        tokens: The prompt and what was chosen.
        chooser: Chooses.
        n_rows: Rows that it gets, stop tokens aside.
        extra: Whether its last row still chooses a token.
        top: Its rows so far.
        ended: Whether it gets no more rows.
    """

    tokens: list[int]
    chooser: Chooser
    n_rows: int
    extra: bool
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list[tuple[tuple[int, float], ...]])
    ended: bool = False

    def take(self, row: tuple[tuple[int, float], ...], logits: Tensor, stop_ids: frozenset[int]) -> None:
        """Takes what follows its last token: candidates, and logits `[1, vocab]` to choose the next one from."""
        self.ended = bool(self.top) and self.tokens[-1] in stop_ids
        self.top.append(row)
        is_last = len(self.top) == self.n_rows
        if not self.ended and (self.extra or not is_last):
            self.tokens.append(choose(logits, [self.chooser])[0].token)
        self.ended = self.ended or is_last


class PairOfTexts:
    """Both texts of one question. Everything here touches the device, so it runs on the device's thread."""

    def __init__(self, model: EagerModel, transcoders: TranscoderSet, question: InterventionQuestion) -> None:
        self._model = model
        self._question = question
        self._clamps = FeatureClamps(model.hook_points, transcoders, question.interventions, question.prompt)
        self._masks = AttentionMasks(model.module)
        self._cache = RowCache()
        self._patterns: dict[int, AttentionReading] = {}
        self._default, self._steered = self._text(extra=False), self._text(extra=True)
        self._running: list[_Text] = []
        self._unread = deque((self._default, self._steered))

    @property
    def ended(self) -> bool:
        """Whether both are written."""
        return not self._unread and not self._running

    @torch.inference_mode()
    def advance(self) -> None:
        """Reads a prompt, or the newest token of each text.

        Raises:
            InvalidRequest: The model's activations are no longer finite.
        """
        if self._unread:
            text = self._unread.popleft()
            logits = self._read_prompt(text)
            self._running.append(text)
            texts: Sequence[_Text] = [text]
        else:
            logits = self._read_tokens()
            texts = list(self._running)
        self._take(texts, logits.float())
        for text in [one for one in texts if one.ended]:
            self._drop(text)

    def answer(self) -> InterventionAnswer:
        """What was written."""
        n_prompt = len(self._question.prompt.ids)
        default, steered = (
            WrittenText(tuple(text.tokens), n_prompt, tuple(text.top)) for text in (self._default, self._steered)
        )
        return InterventionAnswer(default, steered)

    def _text(self, *, extra: bool) -> _Text:
        question = self._question
        # Dividing by the temperature after the penalty, as `choose` does, must come to taking it off afterwards.
        penalty = max(0.0, question.frequency_penalty) * question.temperature
        chooser = Chooser(
            Sampling(question.n_tokens + 1, question.temperature, question.seed, frequency_penalty=penalty)
        )
        for token in question.prompt.ids:
            chooser.remember(token)
        return _Text(list(question.prompt.ids), chooser, question.n_tokens + 1, extra)

    def _read_prompt(self, text: _Text) -> Tensor:
        ids = torch.tensor([self._question.prompt.ids], device=self._model.device)
        length = ids.shape[1]
        self._cache.join([length])
        with self._reading_prompt() if text is self._default else self._steering_prompt():
            logits = self._model.next_logits(
                ids,
                torch.arange(length, device=ids.device).unsqueeze(0),
                self._masks.prefill(length, ids.device),
                self._cache,
                torch.tensor([length - 1], device=ids.device),
            )
        self._cache.commit()
        return logits

    def _read_tokens(self) -> Tensor:
        device, lengths = self._model.device, self._cache.lengths
        ids = torch.tensor([[text.tokens[-1]] for text in self._running], device=device)
        self._cache.extend(device)
        with self._steering_tokens():
            logits = self._model.next_logits(
                ids,
                torch.tensor(lengths, device=device).unsqueeze(1),
                self._masks.decode(lengths, device),
                self._cache,
                torch.zeros(len(lengths), dtype=torch.long, device=device),
            )
        self._cache.commit()
        return logits

    @contextmanager
    def _reading_prompt(self) -> Generator[None]:
        with ExitStack() as watching:
            if self._clamps:
                watching.enter_context(self._clamps.reading())
            if self._clamps and self._question.freeze_attention:
                layers = range(self._model.shape.n_layers)
                model, points = self._model.module, self._model.hook_points
                watching.enter_context(recording_attention(model, points, layers, self._patterns, lambda: None))
            yield

    @contextmanager
    def _steering_prompt(self) -> Generator[None]:
        with ExitStack() as steering:
            steering.enter_context(self._clamps.on_prompt())
            if self._patterns:
                steering.enter_context(replayed_attention(self._model, self._patterns))
            yield
        self._patterns.clear()

    def _steering_tokens(self) -> AbstractContextManager[None]:
        if self._steered not in self._running:
            return nullcontext()
        return self._clamps.on_generated(self._running.index(self._steered))

    def _take(self, texts: Sequence[_Text], logits: Tensor) -> None:
        if not bool(logits.amax(-1).isfinite().all()):
            raise InvalidRequest(
                "The text can not go on: the model's activations are no longer finite numbers.",
                "Steer with smaller deltas.",
            )
        top = logits.softmax(-1).topk(min(self._question.top_k, logits.shape[-1]), -1)
        rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        for at, (text, (ids, probabilities)) in enumerate(zip(texts, rows, strict=True)):
            row = tuple(zip(ids, probabilities, strict=True))
            text.take(row, logits[at : at + 1], self._question.stop_ids)

    def _drop(self, text: _Text) -> None:
        at = self._running.index(text)
        self._cache.drop(at)  # the last row takes its place
        self._running[at] = self._running[-1]
        self._running.pop()


class InterventionEngine:
    """Answers interventions with one model. Cancelling a call stops it after the device step that it is in."""

    def __init__(self, model: EagerModel, transcoders: TranscoderSet, device: DeviceExecutor) -> None:
        self._model = model
        self._transcoders = transcoders
        self._device = device

    async def answer(self, question: InterventionQuestion, deadline: Deadline) -> InterventionAnswer:
        """Both texts.

        Raises:
            InvalidRequest: The model can not read the prompt or be steered here, or its activations overflow.
            TooLarge: The model has no room for the texts.
            DeadlineExceeded: The deadline passed.
        """
        self._model.check_prompt(question.prompt.ids)
        positions = len(question.prompt.ids) + question.n_tokens
        if positions > self._model.shape.max_positions:
            raise TooLarge(
                f"The texts need {positions} tokens; this model reads {self._model.shape.max_positions}.",
                "Send a shorter prompt or ask for fewer tokens.",
            )
        async with deadline.limit():
            pair = await self._device.run(PairOfTexts, self._model, self._transcoders, question)
            while not pair.ended:
                await self._device.run(pair.advance)
        return pair.answer()
