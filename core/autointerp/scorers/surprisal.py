"""Surprisal: does an explanation make the texts where the feature fires easier to foresee, and others not?

Every text is read twice by a language model, behind the explanation and behind words that explain nothing; what counts
is by how much the first lowers its loss. The score is the area under the ROC curve of that decrease between texts where
the feature fires and texts where it is silent, so one half is chance (Paulo et al., 2024, arXiv 2410.13928).

Nothing is judged and nothing written: the figures are log-probabilities of the prompt, which few providers have
(`Ask.prompt_logprobs`). A base model does best. Each text is a question of its own, so none depends on another; delphi
0.1.3 lets a cache of keys and values run on from batch to batch. What is read behind no explanation is the same for
every explanation of a feature, and comes from the reply cache then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import Field

from core.autointerp.examples import FeatureRecord
from core.autointerp.language_model import Ask, ChatMessage, LanguageModel, Reply
from core.autointerp.metrics import MAX_FAILURE_RATE, auc, auc_interval
from core.autointerp.results import Score
from core.autointerp.scorers.prompt_tokens import tokens_of
from core.autointerp.scorers.rows import Surprise
from core.autointerp.scorers.scorer import SeededParameters, cost, explained, required, seed_of, validity

_MARK: Final = "\nText:\n"
_NOTHING: Final = "nothing in particular"
_SHOWN: Final = """Each entry says what its text is about and then gives the text.

About: names of rivers
Text:
They followed the Loire until it met the sea, then took a train back along the Rhine.

About: nothing in particular
Text:
Please close the door behind you when you leave the room.

About: sums of money
Text:
The tickets cost 14 euros each, and the guide asked for another 30.

About: """


class SurprisalParameters(SeededParameters):
    """Parameters of `surprisal`."""

    max_failure_rate: float = Field(
        default=MAX_FAILURE_RATE,
        ge=0,
        le=1,
        description="Largest share of texts that could not be found in the prompts' tokens that still gives a score.",
    )


@dataclass(frozen=True, slots=True)
class SurprisalScorer:
    """Scores an explanation by how much it tells of the feature's texts."""

    model: LanguageModel
    parameters: SurprisalParameters

    async def score(self, record: FeatureRecord, explanation: str) -> Score:
        """Area under the ROC curve of the decrease in loss."""
        about = " ".join(explained(explanation).split())
        required(record.test, "active", "surprisal")
        required(record.silent, "silent", "surprisal")
        examples = (*record.test, *record.silent)
        questions = [_ask(words, example.text) for example in examples for words in (_NOTHING, about)]
        replies = await self.model.ask_all(questions)
        rows = tuple(
            Surprise(example, example.is_active, read_loss(plain, example.text), read_loss(told, example.text))
            for example, plain, told in zip(examples, replies[::2], replies[1::2], strict=True)
        )
        return self._scored(rows, replies, seed_of(record, "surprisal", self.parameters.seed))

    def _scored(self, rows: tuple[Surprise, ...], replies: Sequence[Reply], seed: int) -> Score:
        read = [(row, row.decrease) for row in rows if row.decrease is not None]
        truth, values = [row.truth for row, _ in read], [decrease for _, decrease in read]
        failed = len(rows) - len(read)
        status, reason = validity(failed, len(rows), self.parameters.max_failure_rate)
        value = auc(truth, values) if status != "invalid" else None
        if status != "invalid" and value is None:
            status, reason = "invalid", "no text of one of the two kinds was found in the prompts' tokens"
        metrics = {"failure_rate": failed / len(rows)}
        if value is not None:
            metrics["auc"] = value
            for name, kind in (("decrease_active_nats", True), ("decrease_silent_nats", False)):
                of_kind = [decrease for row, decrease in read if row.truth is kind]
                metrics[name] = sum(of_kind) / len(of_kind)
        return Score(
            value=value,
            metric="auc",
            status=status,
            rows=rows,
            usage=cost(replies),
            reason=reason,
            interval=auc_interval(truth, values, seed) if value is not None else None,
            metrics=metrics,
            by_quantile=_by_quantile(read) if value is not None else {},
        )


def read_loss(reply: Reply, text: str) -> float | None:
    """Mean loss of a text at the end of a prompt, in nats per token; None if its tokens are not to be found."""
    found = tokens_of(reply.prompt, _MARK, text.rstrip())
    if found is None:
        return None
    (tokens,) = found
    return -sum(reply.prompt[at].logprob for at in tokens) / len(tokens)


def _ask(about: str, text: str) -> Ask:
    message = ChatMessage("user", f"{_SHOWN}{about}{_MARK}{text.rstrip()}")  # chat templates strip it
    return Ask((message,), max_tokens=1, temperature=0.0, prompt_logprobs=True)


def _by_quantile(read: Sequence[tuple[Surprise, float]]) -> dict[int, float]:
    parts: dict[int, float] = {}
    for part in sorted({row.quantile for row, _ in read if row.truth and row.quantile is not None}):
        kept = [(row.truth, decrease) for row, decrease in read if not row.truth or row.quantile == part]
        area = auc([truth for truth, _ in kept], [decrease for _, decrease in kept])
        if area is not None:
            parts[part] = area
    return parts
