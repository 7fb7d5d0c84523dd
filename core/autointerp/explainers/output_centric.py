"""Explanation by what a feature makes the model say: its vocabulary projection, not the texts where it fires.

The tokens whose logits the feature raises and lowers most are its decoder row through the unembedding; whoever makes
the record computes them. Such explanations find what a feature does where texts show only when it fires (Gur-Arieh et
al., 2025, arXiv 2501.08319). No example is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import Field

from core.autointerp.examples import FeatureRecord
from core.autointerp.explainers.explainer import AskingParameters, ask_for_explanation, read_marked_answer
from core.autointerp.language_model import ChatMessage, LanguageModel
from core.autointerp.results import Explanation
from core.errors import InvalidRequest

_SYSTEM: Final = """A feature inside a language model makes some tokens more likely to be said next, and some less. \
You are shown both lists, the most affected tokens first. Say what the feature makes the model talk about or do.

- Tokens may be parts of words, and of any language. A few of them can be noise: leave them out.
- The raised tokens say what the feature promotes. Use the lowered ones only if they are clearly its opposite.
- Give one short description, not a list of the tokens and not several guesses.
- If the tokens have nothing in common, say that they have not.
- The last line of your answer is the description, after [EXPLANATION]:"""

_WORKED: Final = (
    (
        (" Monday", " Tuesday", "Friday", " Sunday", "day", " lundi"),
        (" because", " blue"),
        "[EXPLANATION]: names of weekdays",
    ),
    (
        (" sorry", " apolog", " regret", " unfortunately", "Sorry", " forgive"),
        (" congratulations", " hooray", " proud"),
        "[EXPLANATION]: apologising and expressing regret",
    ),
)


class OutputCentricParameters(AskingParameters):
    """Parameters of `output-centric`."""

    max_tokens_shown: int = Field(default=30, ge=1, description="Tokens shown of each list at most.")


@dataclass(frozen=True, slots=True)
class OutputCentricExplainer:
    """Explains by top and bottom logits."""

    model: LanguageModel
    parameters: OutputCentricParameters

    async def explain(self, record: FeatureRecord) -> Explanation:
        """What the feature makes the model say.

        Raises:
            InvalidRequest: Its top logits are not known.
        """
        if not record.top_logits:
            raise InvalidRequest(
                "an output-centric explanation needs the tokens whose logits the feature raises most",
                "Give them, or use an explainer that reads examples.",
            )
        shown = self.parameters.max_tokens_shown
        messages = [ChatMessage("system", _SYSTEM)]
        for raised, lowered, answer in _WORKED:
            messages += [ChatMessage("user", _question(raised, lowered)), ChatMessage("assistant", answer)]
        messages.append(ChatMessage("user", _question(record.top_logits[:shown], record.bottom_logits[:shown])))
        return await ask_for_explanation(self.model, messages, self.parameters, read_marked_answer)


def _question(raised: Sequence[str], lowered: Sequence[str]) -> str:
    return f"Raised: {list(raised)}\nLowered: {list(lowered)}"
