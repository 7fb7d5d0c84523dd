"""Naming features: which feature of an SAE fires on a concept, how exactly, and on which words.

For every concept the feature with the best F1 between "the feature is active" and "the concept applies" is taken.
That is a measurement against the corpus's own labels, not an interpretation by eye or by a language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from core.demo.activations import Activations
from core.demo.concepts import Labels


@dataclass(frozen=True, slots=True)
class NamedFeature:
    """One feature that stands for a concept.

    Attributes:
        concept: What it fires on.
        source: The SAE, as `<layer>-<set>`.
        layer: Its layer.
        index: Its column.
        cut: Activation above which it counts as firing.
        precision: Share of the tokens it fires on to which the concept applies.
        recall: Share of the tokens to which the concept applies that it fires on.
        mean_active: Its mean activation where it is active.
        tokens: The most frequent tokens among its strongest activations.
        contexts: Its strongest activations in different documents, with the token between `[[` and `]]`.
    """

    concept: str
    source: str
    layer: int
    index: int
    cut: float
    precision: float
    recall: float
    mean_active: float
    tokens: list[str]
    contexts: list[dict[str, Any]]

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.precision * self.recall / max(self.precision + self.recall, 1e-9)


_CUTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def score(fired: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:
    """Precision and recall of every feature for every concept.

    Args:
        fired: Bool `[token, feature]`.
        labels: Concepts of the same tokens.

    Returns:
        Two `[concept, feature]` tensors.
    """
    active = fired.float()
    hits = (labels.holds & labels.counts).float().T @ active
    seen = labels.counts.float().T @ active
    wanted = (labels.holds & labels.counts).sum(0)[:, None]
    return hits / seen.clamp_min(1), hits / wanted.clamp_min(1)


def candidates(encoded: Tensor, labels: Labels, concept: str, count: int) -> list[int]:
    """The features of one SAE that best fit a concept, best first, by F1 at any cut."""
    only = labels.names.index(concept)
    one = Labels((concept,), labels.holds[:, [only]], labels.counts[:, [only]])
    peaks = encoded.max(0).values
    scores = torch.stack([torch.stack(score(encoded > cut * peaks, one)) for cut in _CUTS])[:, :, 0]
    f1 = 2 * scores[:, 0] * scores[:, 1] / scores.sum(1).clamp_min(1e-9)
    return f1.max(0).values.argsort(descending=True, stable=True)[:count].tolist()


def name_features(
    encoded: Tensor,
    labels: Labels,
    layer: int,
    source: str,
    rows: Sequence[list[int]],
    seen: Activations,
    tokenizer: PreTrainedTokenizerFast,
) -> list[NamedFeature]:
    """The best feature of one SAE for every concept.

    Args:
        encoded: Feature activations `[token, feature]`.
        labels: Concepts of the same tokens.
        layer: Layer of the SAE.
        source: Name of the SAE.
        rows: Token rows of the documents.
        seen: Where each token comes from.
        tokenizer: To show tokens as text.

    Returns:
        One feature per concept, good or bad; the caller keeps the good ones.
    """
    peaks = encoded.max(0).values
    scores = torch.stack([torch.stack(score(encoded > cut * peaks, labels)) for cut in _CUTS])
    precision, recall = scores[:, 0], scores[:, 1]
    f1 = 2 * precision * recall / (precision + recall).clamp_min(1e-9)
    found: list[NamedFeature] = []
    for i, concept in enumerate(labels.names):
        at, index = divmod(int(f1[:, i].flatten().argmax()), encoded.shape[1])
        column = encoded[:, index]
        tokens, contexts = _evidence(column, rows, seen, tokenizer)
        found.append(
            NamedFeature(
                concept=concept,
                source=source,
                layer=layer,
                index=index,
                cut=_CUTS[at] * float(peaks[index]),
                precision=float(precision[at, i, index]),
                recall=float(recall[at, i, index]),
                mean_active=float(column[column > 0].mean()) if (column > 0).any() else 0.0,
                tokens=tokens,
                contexts=contexts,
            ),
        )
    return found


def _evidence(
    column: Tensor, rows: Sequence[list[int]], seen: Activations, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[str], list[dict[str, Any]]]:
    order = torch.argsort(column, descending=True, stable=True)[:400].tolist()
    counted: dict[str, int] = {}
    contexts: list[dict[str, Any]] = []
    documents: set[int] = set()
    for at in order:
        value = float(column[at])
        if value <= 0:
            break
        row, position = int(seen.row[at]), int(seen.position[at])
        token = str(tokenizer.decode([rows[row][position]]))
        counted[token] = counted.get(token, 0) + 1
        if len(contexts) < 4 and row not in documents and counted[token] <= 2:
            documents.add(row)
            before = str(tokenizer.decode(rows[row][max(1, position - 8) : position]))
            after = str(tokenizer.decode(rows[row][position + 1 : position + 4]))
            contexts.append({"activation": round(value, 3), "text": f"{before}[[{token}]]{after}"})
    tokens = sorted(counted, key=lambda token: (-counted[token], token))[:8]
    return tokens, contexts
