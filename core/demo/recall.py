"""How well the model knows its world: greedy accuracy on sentences it has never been shown.

A statement counts as right only if every token of its answer (article included) is the model's first choice. What is
measured is recall of a fact in other words, not memory of a sentence; see `corpus` for the two splits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.demo.model import pad_rows
from core.demo.sentences import Statement
from core.demo.tokenizer import PAD_ID


@dataclass(frozen=True, slots=True)
class Recall:
    """Counts over statements and over single answer tokens.

    Attributes:
        statements: How many statements were asked.
        right: How many were answered in full.
        tokens: How many answer tokens there are.
        tokens_right: How many of them are the greedy next token.
        by_relation: Relation to (right, asked).
    """

    statements: int
    right: int
    tokens: int
    tokens_right: int
    by_relation: dict[str, tuple[int, int]]

    @property
    def accuracy(self) -> float:
        """Share of statements whose whole answer is right."""
        return self.right / self.statements

    @property
    def next_token_accuracy(self) -> float:
        """Share of answer tokens that are predicted right."""
        return self.tokens_right / self.tokens


@torch.no_grad()
def recall(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, asked: Sequence[Statement]) -> Recall:
    """Ask the model to complete statements, each as a prompt of its own."""
    right = tokens = tokens_right = 0
    by_relation: dict[str, tuple[int, int]] = {}
    for start in range(0, len(asked), 64):
        chunk = asked[start : start + 64]
        prompts: list[list[int]] = tokenizer([s.prompt for s in chunk])["input_ids"]  # pyright: ignore[reportAssignmentType]
        wholes: list[list[int]] = tokenizer([s.prompt + s.answer for s in chunk])["input_ids"]  # pyright: ignore[reportAssignmentType]
        choices = model(input_ids=pad_rows(wholes, PAD_ID), use_cache=False).logits.argmax(-1).tolist()
        for statement, prompt, whole, choice in zip(chunk, prompts, wholes, choices, strict=True):
            hits = [choice[i - 1] == whole[i] for i in range(len(prompt), len(whole))]
            tokens += len(hits)
            tokens_right += sum(hits)
            right += all(hits)
            relation = statement.combination.partition(":")[0]
            so_far = by_relation.get(relation, (0, 0))
            by_relation[relation] = (so_far[0] + all(hits), so_far[1] + 1)
    return Recall(len(asked), right, tokens, tokens_right, by_relation)
