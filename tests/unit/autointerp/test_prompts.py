"""An edit of delphi's prompts, or of ours, is noticed: stored results were made with other words."""

import pytest

from core.autointerp import prompts
from core.autointerp.language_model import ChatMessage
from core.autointerp.prompts import PromptStyle

# The first 16 digits of the sha256 of what is asked with one example, at delphi 0.1.3.
KNOWN: dict[PromptStyle, dict[str, str]] = {
    "delphi": {
        "explaining": "b5d166a46e8acad6",
        "contrasting": "7e741c5f3c78e0ca",
        "naming_words": "d49f10f1b829ce12",
        "detecting": "0d2cc1fcaa30bbb5",
        "fuzzing": "2cdbafe3e0c80ba9",
        "finding_intruder": "cc2bb0222f6f3c39",
    },
    "neuronpedia": {
        "explaining": "04ef9ab28366aa08",
        "contrasting": "9fac8ce61b8874a9",
        "naming_words": "9c126eb7db12de4e",
        "detecting": "5fb232b09a9a111f",
        "fuzzing": "9eb43edf6c70d01a",
        "finding_intruder": "cc2bb0222f6f3c39",
    },
}


@pytest.mark.parametrize("style", ["delphi", "neuronpedia"])
def test_fixed_text_is_what_it_was(style: PromptStyle) -> None:
    asked: dict[str, list[ChatMessage]] = {
        "explaining": prompts.explaining(["e"], style, activations=True, reasoning=True),
        "contrasting": prompts.contrasting(["e"], style),
        "naming_words": prompts.naming_words(["w"], style),
        "detecting": prompts.detecting("x", ["e"], style),
        "fuzzing": prompts.fuzzing("x", ["e"], style),
        "finding_intruder": prompts.finding_intruder(["e"], style, reasoning=True),
    }
    assert {name: prompts.prompt_hash(messages)[:16] for name, messages in asked.items()} == KNOWN[style]


def test_the_simulators_fixed_text_is_what_it_was() -> None:
    assert prompts.prompt_hash(prompts.simulating("x", ["e"]))[:16] == "2c3ceb5cef204457"
