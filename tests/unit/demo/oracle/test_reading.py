"""What the oracle reads: marks, explanations, and the questions of all explainers and scorers."""

import asyncio

import pytest

from core.autointerp.language_model import Ask, ChatMessage
from core.autointerp.marking import mark
from core.demo.concepts import concept_names
from core.demo.oracle import ORACLE_MODEL, DemoOracle, demo_models
from core.demo.oracle.concepts import NOTHING, concepts, meant_by
from core.demo.oracle.marked import joined, pieces, read_marks
from core.errors import ModelNotFound, ProviderRejected

PARIS = "The capital of France is Paris. Hugo has a cat."


def found(explanation: str, text: str) -> list[str]:
    return [text[start:end] for start, end in meant_by(explanation).find(text)]


@pytest.mark.parametrize("tokens", [("<|user|>", "\n", "How"), ("a", " ,", " cat"), ("<eos>", "Le", " chat")])
@pytest.mark.parametrize("positions", [{0}, {1}, {0, 1}, {2}, {0, 2}])
def test_marks_are_read_back_as_they_were_set(tokens: tuple[str, ...], positions: set[int]) -> None:
    read = read_marks(mark(tokens, positions))
    assert read.text == "".join(tokens)
    ends = [sum(map(len, tokens[: i + 1])) for i in range(len(tokens))]
    expected = {i for start, end in read.marks for i in range(len(tokens)) if start < ends[i] <= end}
    assert expected == positions


def test_a_word_of_which_a_part_is_marked_is_a_marked_piece() -> None:
    read = read_marks("He went to Lisb<<on>> and<< back>>.")
    assert [read.text[start:end] for start, end in read.marked_pieces] == ["Lisbon", "back"]


def test_joined_texts_keep_their_marks_apart() -> None:
    one = joined([read_marks("a<< cat>>"), read_marks("no mark"), read_marks("<<a>> dog")])
    assert [one.text[start:end] for start, end in one.marked_pieces] == ["cat", "a"]


def test_pieces_are_words_numbers_signs_line_breaks_and_special_tokens() -> None:
    text = "<|user|>\nC'est 12 + été.<eos>"
    shown = [text[start:end] for start, end in pieces(text)]
    assert shown == ["<|user|>", "\n", "C", "'", "est", "12", "+", "été", ".", "<eos>"]


@pytest.mark.parametrize("name", concept_names())
def test_every_concept_that_the_demo_names_means_itself(name: str) -> None:
    assert meant_by(name).name == name
    assert meant_by(f"Tokens that are {name}.").name in (name, name.removeprefix("about to name "))


@pytest.mark.parametrize(
    ("explanation", "places"),
    [
        ("a capital", ["Paris"]),
        ("Names of capital cities", ["Paris"]),
        ("about to name a capital", ["is"]),
        ("say a capital", ["is"]),
        ("just after a capital", ["."]),
        ("names of animals", ["cat"]),
        ('the words "France", "has"', ["France", "has"]),
        ('about to say "cat"', ["a"]),
        ("just after “has”, “of”", ["France", "a"]),
        ("a man's name", ["Hugo"]),
        ("the country France, which is in Europe", ["France"]),
        ("things about hugo", ["Hugo"]),
        ("", []),
        ("of the and", []),
    ],
)
def test_an_explanation_is_found_where_it_holds(explanation: str, places: list[str]) -> None:
    assert found(explanation, PARIS) == places


def test_what_says_nothing_means_nothing() -> None:
    assert meant_by("?!") is NOTHING


@pytest.mark.parametrize(
    ("name", "text"), [("English", "The children sing"), ("French", "Les enfants chantent"), ("Spanish", "Los niños")]
)
def test_a_language_is_told_by_its_own_words(name: str, text: str) -> None:
    for language in ("English", "French", "Spanish"):
        assert bool(found(language, text)) == (language == name)


def test_turns_of_a_chat_are_told_apart_even_if_they_are_cut() -> None:
    text = "cat?<|end|>\n<|assistant|>\nA dog.<|end|>\n<|user|>\nAnd"
    assert found("a question of the user", text) == ["cat", "?", "And"]
    assert found("a reply of the assistant", text) == ["A", "dog", "."]


def test_no_concept_is_found_in_an_empty_text() -> None:
    assert not any(concept.find("") for concept in concepts().values())


def test_a_question_of_nobody_known_is_refused() -> None:
    with pytest.raises(ProviderRejected, match="does not understand"):
        asyncio.run(DemoOracle().attempt(Ask((ChatMessage("user", "Who are you?"),), 10), 1.0))


def test_log_probabilities_of_a_prompt_are_refused() -> None:
    with pytest.raises(ProviderRejected, match="log-probabilities"):
        asyncio.run(DemoOracle().attempt(Ask((ChatMessage("user", "x"),), 1, prompt_logprobs=True), 1.0))


def test_the_oracle_is_the_only_model_of_the_demo() -> None:
    assert demo_models(ORACLE_MODEL).name == ORACLE_MODEL
    with pytest.raises(ModelNotFound, match="gpt-4"):
        demo_models("gpt-4")
