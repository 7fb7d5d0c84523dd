"""The corpus is reproducible, grammatical where it promises to be, and never states what it holds out."""

import pytest

from core.demo import corpus
from core.demo.chats import PERSONAS, chat, render
from core.demo.languages import LANGUAGES, words
from core.demo.sentences import ask, state
from core.demo.world import facts


@pytest.fixture(scope="module")
def sample() -> list[corpus.Document]:
    return list(corpus.documents(0, 5000))


def test_the_same_seed_gives_the_same_documents(sample):
    assert list(corpus.documents(0, 300)) == sample[:300]
    assert list(corpus.documents(1, 300)) != sample[:300]


def test_more_documents_begin_with_the_fewer(sample):
    assert list(corpus.documents(0, 50)) == sample[:50]


def test_no_document_states_a_held_out_sentence(sample):
    split = corpus.split()
    hidden = [s.text for s in corpus.statements(split.held_out | split.unseen)]
    # Short sums such as "1 + 1 = 2." could end a longer number; a line start or a space must come before.
    everything = "\n".join(f" {document.text}" for document in sample)
    assert [text for text in hidden if f" {text}" in everything or f"\n{text}" in everything] == []


def test_every_held_out_fact_is_taught_in_the_same_language_in_other_words():
    split = corpus.split()
    by_key = {fact.key: fact for fact in corpus.all_facts()}
    hidden_texts = {s.text for s in corpus.statements(split.held_out | split.unseen)}
    for combination in split.held_out:
        key, language, template = combination.split("|")
        fact = by_key[key]
        others = [state(fact, language, i).text for i in range(corpus.templates(fact, language)) if i != int(template)]
        assert any(text not in hidden_texts for text in others), combination


def test_the_splits_do_not_overlap_and_are_large_enough_to_measure():
    split = corpus.split()
    assert not split.held_out & split.unseen
    assert len(split.held_out) > 400
    assert len(split.unseen) > 50


def test_every_kind_of_document_occurs_in_every_language(sample):
    kinds = {document.kind for document in sample}
    assert kinds >= {"facts", "fact", "vocabulary", "arithmetic", "sequence", "story", "review", "chat", "mixed"}
    for kind in kinds - {"mixed"}:
        assert {document.language for document in sample if document.kind == kind} == set(LANGUAGES)


def test_fact_keys_are_unique():
    keys = [fact.key for fact in corpus.all_facts()]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("relation", "language", "sentence"),
    [
        ("capital:Italy", "fr", "La capitale de l'Italie est Rome."),
        ("capital:Japan", "fr", "La capitale du Japon est Tokyo."),
        ("capital:Spain", "es", "La capital de España es Madrid."),
        ("workplace:doctor", "en", "A doctor works in a hospital."),
        ("workplace:doctor", "fr", "Un médecin travaille dans un hôpital."),
        ("opposite:small", "es", "Lo contrario de pequeño es grande."),
        ("city_capital:Lyon", "en", "The capital of the country that contains Lyon is Paris."),
    ],
)
def test_sentences_agree_elide_and_contract(relation, language, sentence):
    fact = next(fact for fact in facts() if fact.key == relation)
    statement = state(fact, language, 0)
    assert statement.text == sentence
    assert statement.text == f"{statement.prompt}{statement.answer}."


def test_a_question_is_asked_in_every_language_it_has():
    fact = next(fact for fact in facts() if fact.key == "capital:France")
    assert ask(fact, "fr") == "Quelle est la capitale de la France ?"
    assert ask(fact, "es") == "¿Cuál es la capital de Francia?"
    assert ask(next(f for f in facts() if f.relation == "sport_tool"), "en") is None


def test_a_word_table_with_a_missing_column_is_refused():
    with pytest.raises(ValueError, match="three columns"):
        words("cat | chat m")


def test_assistant_and_characters_answer_the_same_question_differently():
    import random

    replies = {
        persona: chat(random.Random(5), "en", lambda: ("Q?", "Plain."), persona)[-1]["content"] for persona in PERSONAS
    }
    assert len(set(replies.values())) == len(PERSONAS)


def test_characters_always_have_a_system_prompt():
    import random

    rng = random.Random(1)
    for persona in PERSONAS[1:]:
        messages = chat(rng, "fr", lambda: ("Q ?", "R."), persona)
        assert messages[0]["role"] == "system"
        assert render(messages).startswith("<|system|>\n")
