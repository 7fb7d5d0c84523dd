"""Short labels of the kind that attribution graphs show: by the strongest token, by what follows it, by the theme.

    np-max-act         the strongest tokens, and the texts around them
    np-max-act-logits  and the tokens that come next, and those whose logits the feature raises: "say cat"

Neuronpedia's names and its order of methods; the words are ours. The model says which method it used before it answers,
so it tries them in order. An answer that is the name of a method, or is longer than a label, is no answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import Field

from core.autointerp.examples import Example, FeatureRecord
from core.autointerp.explainers.explainer import AskingParameters, ask_about_examples, train_examples
from core.autointerp.language_model import ChatMessage, LanguageModel
from core.autointerp.results import Explanation
from core.errors import InvalidRequest

_MAX_WORDS: Final = 12
_ANSWER: Final = "Explanation:"
_NAMES_A_METHOD: Final = re.compile(r"\bmethod \d", re.IGNORECASE)

_START: Final = """You label a feature inside a language model. You are shown lists about the texts in which the \
feature is strongest. Find the shortest label that says what these have in common.

Try the methods in this order and stop at the first that fits most entries of its list.
"""
_BY_TOKEN: Final = (
    "Look at MAX_ACTIVATING_TOKENS. If nearly all are the same word, forms of one word, or words of one narrow kind, "
    "the label is that word or kind."
)
_BY_NEXT: Final = (
    "Look at TOKENS_AFTER_MAX_ACTIVATING_TOKEN and TOP_POSITIVE_LOGITS. If they agree on one word or one narrow kind "
    'of word, the feature predicts it: the label is "say" and that word or kind.'
)
_BY_THEME: Final = (
    "Look at TOP_ACTIVATING_TEXTS. If they are about one subject or have one form, the label is that subject or form."
)
_BY_LOGITS: Final = "Look at TOP_POSITIVE_LOGITS alone. The label is what most of them have in common."
_END: Final = """
The label has one to six words. It has no full stop, and does not speak of tokens, texts or the feature. First write \
which method you used, on a line of its own, then "Explanation: " and the label. Write nothing else."""


class MaxActivationParameters(AskingParameters):
    """Parameters of `np-max-act` and `np-max-act-logits`."""

    max_tokens: int = Field(default=4096, ge=1, le=100_000, description="Tokens of the answer at most.")
    max_examples: int = Field(default=10, ge=1, description="Examples shown at most, the strongest first.")
    reach: int = Field(default=24, ge=0, description="Tokens shown on each side of the strongest one.")
    max_logits: int = Field(default=10, ge=1, description="Tokens shown whose logits the feature raises.")


@dataclass(frozen=True, slots=True)
class _Lists:
    tokens: tuple[str, ...]
    following: tuple[str, ...]
    texts: tuple[str, ...]
    logits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MaxActivationExplainer:
    """Labels by strongest tokens; `with_logits` also by what the feature makes the model say."""

    model: LanguageModel
    parameters: MaxActivationParameters
    with_logits: bool = False

    async def explain(self, record: FeatureRecord) -> Explanation:
        """A label of a few words.

        Raises:
            InvalidRequest: There are no examples, or no top logits where they are needed.
        """
        parameters = self.parameters
        if self.with_logits and not record.top_logits:
            raise InvalidRequest(
                "np-max-act-logits needs the tokens whose logits the feature raises most",
                "Give them, or use np-max-act.",
            )
        examples = sorted(train_examples(record), key=lambda example: -example.maximum)[: parameters.max_examples]
        logits = tuple(token.strip() for token in record.top_logits[: parameters.max_logits])

        def messages_of(examples: Sequence[Example]) -> list[ChatMessage]:
            lists = _Lists(
                tokens=tuple(example.tokens[_peak(example)].strip() for example in examples),
                following=tuple(following for example in examples if (following := _following(example))),
                texts=tuple(_around(example, parameters.reach) for example in examples),
                logits=logits,
            )
            return self._messages(lists)

        return await ask_about_examples(self.model, examples, messages_of, parameters, read_label)

    def _messages(self, lists: _Lists) -> list[ChatMessage]:
        methods = [_BY_TOKEN, _BY_NEXT, _BY_THEME, _BY_LOGITS] if self.with_logits else [_BY_TOKEN, _BY_THEME]
        numbered = "\n".join(f"Method {number}: {method}" for number, method in enumerate(methods, 1))
        messages = [ChatMessage("system", f"{_START}\n{numbered}\n{_END}")]
        for worked, method, label in _WORKED:
            if method in methods:
                messages.append(ChatMessage("user", self._shown(worked)))
                answer = f"Method {methods.index(method) + 1}\n{_ANSWER} {label}"
                messages.append(ChatMessage("assistant", answer))
        return [*messages, ChatMessage("user", self._shown(lists))]

    def _shown(self, lists: _Lists) -> str:
        sections = {"MAX_ACTIVATING_TOKENS": lists.tokens}
        if self.with_logits:
            sections["TOKENS_AFTER_MAX_ACTIVATING_TOKEN"] = lists.following
            sections["TOP_POSITIVE_LOGITS"] = lists.logits
        sections["TOP_ACTIVATING_TEXTS"] = lists.texts
        return "\n\n".join(_section(name, entries) for name, entries in sections.items())


def read_label(text: str) -> str | None:
    """The label after the last `Explanation:`; None if there is none, or it is none of a few words."""
    _, found, label = text.rpartition(_ANSWER)
    label = label.strip().removesuffix(".").strip().strip('"')
    if not found or not label or "\n" in label or len(label.split()) > _MAX_WORDS or _NAMES_A_METHOD.search(label):
        return None
    return label


def _section(name: str, entries: Sequence[str]) -> str:
    return "\n".join([f"<{name}>", *entries, f"</{name}>"])


def _peak(example: Example) -> int:
    return example.activations.index(example.maximum)


def _following(example: Example) -> str:
    after = _peak(example) + 1
    return example.tokens[after].strip() if after < len(example.tokens) else ""


def _around(example: Example, reach: int) -> str:
    peak = _peak(example)
    text = "".join(example.tokens[max(0, peak - reach) : peak + reach + 1])
    return text.replace("\r", "").replace("\n", "  ").strip()


_WORKED: Final = (
    (
        _Lists(
            tokens=("river", "rivers", "River", "river"),
            following=("bank", "of", "Thames", "to"),
            texts=(
                "we walked down to the river bank before noon",
                "a map of the rivers of France",
                "boats on the River Thames",
                "they crossed the river to reach the mill",
            ),
            logits=("bed", "flow", "cano", "dam"),
        ),
        _BY_TOKEN,
        "river",
    ),
    (
        _Lists(
            tokens=("the", "a", "his", "this"),
            following=("bread", "loaf", "dough", "bread"),
            texts=(
                "she cut the bread into thin slices",
                "he bought a loaf on his way home",
                "the baker let his dough rest overnight",
                "nobody had asked for this bread",
            ),
            logits=("bread", "loaf", "bun", "dough"),
        ),
        _BY_NEXT,
        "say bread",
    ),
    (
        _Lists(
            tokens=("court", "filed", "claim", "before"),
            following=("ruled", "a", "against", "the"),
            texts=(
                "on Monday the court ruled that the contract was void",
                "the tenants filed a suit in the county",
                "her claim against the insurer was heard in May",
                "he had to appear before the judge twice",
            ),
            logits=("ness", "ing", "ware", "ton"),
        ),
        _BY_THEME,
        "legal proceedings",
    ),
)
