"""What a call will cost: a price, and how many tokens a question will take, told before it is asked.

Tokens are estimated from bytes, since a provider's tokenizer is not ours: three bytes of UTF-8 per token, where English
has about four, and a few tokens around each message. So the estimate is rather too high, which a budget wants.

Deliberately not here: a table of the world's prices, which would be wrong by the time it is read. The configuration
brings one, and a provider that says what a call cost is believed (`usage.cost` of OpenRouter).
"""

from dataclasses import dataclass
from typing import Final

from core.autointerp.language_model import Ask

_BYTES_PER_TOKEN: Final = 3
_TOKENS_AROUND_A_MESSAGE: Final = 8
_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens.

    Attributes:
        prompt_usd: Read.
        completion_usd: Written.
    """

    prompt_usd: float
    completion_usd: float

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Dollars for so many tokens."""
        return (prompt_tokens * self.prompt_usd + completion_tokens * self.completion_usd) / _MILLION


def text_tokens(text: str) -> int:
    """How many tokens a text may have, estimated from its bytes."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)


def prompt_tokens(question: Ask) -> int:
    """How many tokens a question's messages may have, estimated."""
    return sum(text_tokens(message.content) + _TOKENS_AROUND_A_MESSAGE for message in question.messages)
