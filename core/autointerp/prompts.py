"""delphi's prompts, in the words of delphi or in those of the peer's server.

The peer runs an early fork of delphi whose prompts differ from today's in two ways: they say *feature* where delphi
says *latent*, and number the examples shown to the explainer. So its style is made from delphi's texts, which stay in
delphi. Only fixed text is reworded: never an explanation or an example, which are somebody's data.

    examples as text -> delphi's builder -> messages -> reworded if `neuronpedia` -> ChatMessage

Deliberately not here: how examples are written and how answers are read.
"""

from collections.abc import Sequence
from hashlib import sha256
from json import dumps
from typing import Final, Literal

from core.autointerp.delphi_import import delphi_module
from core.autointerp.language_model import ChatMessage

PromptStyle = Literal["neuronpedia", "delphi"]

_HEADING: Final = "Latent explanation: "


def load_prompts() -> None:
    """Imports delphi: ten seconds the first time, so a replica does it before it serves."""
    delphi_module("scorers")


def explaining(examples: Sequence[str], style: PromptStyle, *, activations: bool, reasoning: bool) -> list[ChatMessage]:
    """Asks what marked examples have in common.

    Args:
        examples: The lines of the examples, activations included if they are shown.
        style: Whose words.
        activations: Whether the lines show activations, so the worked examples do too.
        reasoning: Whether to ask for steps of thought before the answer.
    """
    builder = delphi_module("explainers.default.prompt_builder")
    messages = builder.build_prompt("\n".join(examples), activations=activations, cot=reasoning)
    return _styled(messages, style)


def contrasting(examples: Sequence[str], style: PromptStyle) -> list[ChatMessage]:
    """Asks what marked examples have in common that others lack."""
    fixed = delphi_module("explainers.default.prompts").system_contrastive()
    return _styled([*fixed, {"role": "user", "content": "\n".join(examples)}], style)


def naming_words(words: Sequence[str], style: PromptStyle) -> list[ChatMessage]:
    """Asks for the pattern behind words."""
    messages = delphi_module("explainers.default.prompt_builder").build_single_token_prompt(list(words))
    # delphi leaves the placeholder of a template that it never fills in the text.
    messages[0] = {**messages[0], "content": messages[0]["content"].replace("\n{prompt}\n", "")}
    return _styled(messages, style)


def detecting(explanation: str, examples: Sequence[str], style: PromptStyle) -> list[ChatMessage]:
    """Asks which texts fit an explanation."""
    return _judging("detection", explanation, examples, style)


def fuzzing(explanation: str, examples: Sequence[str], style: PromptStyle) -> list[ChatMessage]:
    """Asks in which texts the marked tokens fit an explanation."""
    return _judging("fuzz", explanation, examples, style)


def finding_intruder(examples: Sequence[str], style: PromptStyle, *, reasoning: bool) -> list[ChatMessage]:
    """Asks which text does not belong to the others."""
    builder = delphi_module("scorers.classifier.prompts.intruder_prompt")
    lines = "\n".join(f"Example {i}:{example}" for i, example in enumerate(examples))
    return _styled(builder.prompt(lines, cot=reasoning), style)


def simulating(explanation: str, tokens: Sequence[str]) -> list[ChatMessage]:
    """Asks how strongly a feature with this explanation fires at each token, 0 to 10, as JSON.

    It speaks of neurons in either style.
    """
    simulator = delphi_module("scorers.simulator.simulation.simulator").NeuronSimulator(None, explanation, False)
    return _styled(simulator._make_json_prompt(list(tokens)), "delphi")


def prompt_hash(messages: Sequence[ChatMessage]) -> str:
    """sha256 of messages, in hexadecimal."""
    return sha256(dumps([[message.role, message.content] for message in messages]).encode()).hexdigest()


def _judging(
    kind: Literal["detection", "fuzz"], explanation: str, texts: Sequence[str], style: PromptStyle
) -> list[ChatMessage]:
    builder = delphi_module(f"scorers.classifier.prompts.{kind}_prompt")
    lines = "\n".join(f"Example {i}: {text}" for i, text in enumerate(texts))
    messages = _styled(builder.prompt(explanation=explanation, examples=lines), style)
    if style == "delphi":
        return messages
    rest = messages[-1].content.removeprefix(_HEADING)
    return [*messages[:-1], ChatMessage("user", _reworded(_HEADING) + rest)]


def _styled(messages: Sequence[dict[str, str]], style: PromptStyle) -> list[ChatMessage]:
    *fixed, last = [ChatMessage(message["role"], message["content"]) for message in messages]  # pyright: ignore[reportArgumentType]
    if style == "neuronpedia":
        fixed = [ChatMessage(message.role, _reworded(message.content)) for message in fixed]
    return [*fixed, last]


def _reworded(text: str) -> str:
    return text.replace("latent", "feature").replace("Latent", "Feature")
