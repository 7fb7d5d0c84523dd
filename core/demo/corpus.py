"""The corpus: documents drawn from the micro-world, and the split that makes its accuracy mean something.

What is held out is a *combination* of fact, language and template: the sentence is never written in training, while
the same fact is, in other words and other languages. A second, harder split holds out a fact about an invented person
from one language altogether, so that it can only be answered by carrying it over from the other two.

    world + sentences -> statements --.
    stories, sequences, chats --------+-> documents(seed, n) -> tokenizer, model, autoencoders
    split() -> combinations never used by documents(...)

Every choice comes from one `random.Random`, so the same seed gives the same bytes on every machine.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from core.demo import stories
from core.demo.chats import chat, render
from core.demo.languages import LANGUAGE_NAMES, LANGUAGES, Language, capitalised
from core.demo.sentences import Statement, ask, state, templates
from core.demo.sequences import sequence
from core.demo.world import PEOPLE, Fact, arithmetic_facts, facts, translation_facts

_SPLIT_SEED = 7
_HELD_OUT_RATE = 0.3
_UNSEEN_RATE = 0.06


@dataclass(frozen=True, slots=True)
class Document:
    """One text of the corpus; `language` is None where several languages share it."""

    text: str
    kind: str
    language: Language | None


@dataclass(frozen=True, slots=True)
class Split:
    """Combinations that training never sees.

    Attributes:
        held_out: The fact is taught in the same language, in other words.
        unseen: The fact is never stated in this language at all.
    """

    held_out: frozenset[str]
    unseen: frozenset[str]


@cache
def all_facts() -> tuple[Fact, ...]:
    """Every fact of the world."""
    return facts() + arithmetic_facts() + translation_facts()


@cache
def split() -> Split:
    """The held-out combinations; the same in every run and independent of the corpus seed."""
    rng = random.Random(_SPLIT_SEED)
    held_out: set[str] = set()
    unseen: set[str] = set()
    for fact in all_facts():
        gap = rng.choice(LANGUAGES) if rng.random() < 3 * _UNSEEN_RATE else None
        for language in fact.languages:
            count = templates(fact, language)
            draw, choice = rng.random(), rng.randrange(count)
            if language == gap and fact.relation.startswith("person_"):
                unseen.update(f"{fact.key}|{language}|{i}" for i in range(count))
            elif draw < _HELD_OUT_RATE:
                held_out.add(f"{fact.key}|{language}|{choice}")
    return Split(frozenset(held_out), frozenset(unseen))


def statements(combinations: frozenset[str]) -> tuple[Statement, ...]:
    """The sentences of some combinations, in the order of the world."""
    found: list[Statement] = []
    for fact in all_facts():
        for language in fact.languages:
            for template in range(templates(fact, language)):
                if f"{fact.key}|{language}|{template}" in combinations:
                    found.append(state(fact, language, template))
    return tuple(found)


@cache
def _hidden_texts() -> frozenset[str]:
    """Hidden sentences by their text: "3 + 4 = 7." is one sentence in three languages."""
    return frozenset(s.text for s in statements(split().held_out | split().unseen))


@cache
def _allowed(language: Language) -> dict[str, tuple[Statement, ...]]:
    """For each fact key the statements training may use; facts with none are left out."""
    hidden = _hidden_texts()
    found: dict[str, tuple[Statement, ...]] = {}
    for fact in all_facts():
        if language in fact.languages:
            every = [state(fact, language, i) for i in range(templates(fact, language))]
            usable = tuple(s for s in every if s.text not in hidden)
            if usable:
                found[fact.key] = usable
    return found


@cache
def _topics(language: Language) -> tuple[tuple[Fact, ...], ...]:
    """Groups of facts that make one paragraph: all about one subject, or all of one relation."""
    usable = _allowed(language)
    by_subject: dict[str, list[Fact]] = {}
    by_relation: dict[str, list[Fact]] = {}
    for fact in facts():
        if fact.key in usable:
            by_subject.setdefault(fact.subject.en, []).append(fact)
            by_relation.setdefault(fact.relation, []).append(fact)
    groups = [group for group in by_subject.values() if len(group) > 1]
    portraits = [group for group in groups if group[0].relation.startswith("person_")]
    relations = [group for name, group in by_relation.items() if not name.startswith("person_")]
    return tuple(tuple(group) for group in groups + portraits + relations * 3)


@cache
def _by_relation(language: Language) -> tuple[tuple[str, ...], ...]:
    """Keys of the usable facts, grouped by relation, so that large ones do not drown small ones."""
    groups: dict[str, list[str]] = {}
    for key in _allowed(language):
        groups.setdefault(key.partition(":")[0], []).append(key)
    return tuple(tuple(group) for group in groups.values())


def _say(rng: random.Random, key: str, language: Language) -> str:
    return rng.choice(_allowed(language)[key]).text


def _draw_key(rng: random.Random, language: Language) -> str:
    """A fact; a relation with four times the facts is drawn twice as often."""
    groups = _by_relation(language)
    return rng.choice(rng.choices(groups, [len(group) ** 0.5 for group in groups])[0])


def _single(rng: random.Random, language: Language) -> str:
    return _say(rng, _draw_key(rng, language), language)


def _paragraph(rng: random.Random, language: Language) -> str:
    group = rng.choice(_topics(language))
    chosen = rng.sample(group, min(len(group), rng.randrange(2, 7)))
    return " ".join(_say(rng, fact.key, language) for fact in chosen)


def _miscellany(rng: random.Random, language: Language) -> str:
    return " ".join(_single(rng, language) for _ in range(rng.randrange(3, 9)))


@cache
def _keys_with(prefixes: tuple[str, ...], language: Language) -> tuple[str, ...]:
    return tuple(key for key in _allowed(language) if key.startswith(prefixes))


def _sums(rng: random.Random, language: Language) -> str:
    keys = _keys_with(("sum", "difference"), language)
    separator = rng.choice((" ", "\n"))
    return separator.join(_say(rng, rng.choice(keys), language) for _ in range(rng.randrange(3, 10)))


def _vocabulary(rng: random.Random, language: Language) -> str:
    keys = _keys_with(("translation",), language)
    return " ".join(_say(rng, rng.choice(keys), language) for _ in range(rng.randrange(2, 7)))


def _chat(rng: random.Random, language: Language) -> str:
    keys = _asked(language)

    def exchange() -> tuple[str, str]:
        key, question = rng.choice(keys)
        return question, _say(rng, key, language)

    return render(chat(rng, language, exchange))


@cache
def _asked(language: Language) -> tuple[tuple[str, str], ...]:
    usable = _allowed(language)
    pairs = ((fact.key, ask(fact, language)) for fact in all_facts() if fact.key in usable)
    return tuple((key, question) for key, question in pairs if question is not None)


def _diary(rng: random.Random, language: Language) -> str:
    """A story about a person whose facts are told on the way."""
    person = rng.choice(PEOPLE)
    usable = _allowed(language)
    known = [key for fact in facts() if fact.subject == person.who and (key := fact.key) in usable]
    told = [_say(rng, key, language) for key in rng.sample(known, min(len(known), rng.randrange(1, 4)))]
    who = stories.cast(rng) | {"p": person}
    scenes = [stories.tell(sentence, who, language) for sentence in stories.plot(rng)]
    return " ".join([*told, *scenes])


_WRITERS: tuple[tuple[int, str, Callable[[random.Random, Language], str]], ...] = (
    (24, "facts", _paragraph),
    (18, "fact", _single),
    (10, "miscellany", _miscellany),
    (3, "vocabulary", _vocabulary),
    (9, "arithmetic", _sums),
    (5, "sequence", sequence),
    (9, "story", stories.story),
    (4, "diary", _diary),
    (5, "review", stories.review),
    (18, "chat", _chat),
)


def _mixed(rng: random.Random) -> str:
    """A text in two or three languages: a lesson with translations, or a text that changes language half way."""
    order = rng.sample(LANGUAGES, 3)
    who, plot = stories.cast(rng), stories.plot(rng)
    form = rng.randrange(3)
    if form == 0:
        sentence = rng.choice(plot)
        return "\n".join(
            f"{capitalised(LANGUAGE_NAMES[lang][lang])}: {stories.tell(sentence, who, lang)}" for lang in order
        )
    if form == 1:
        turn = rng.randrange(len(plot) + 1)
        return " ".join(stories.tell(s, who, order[i >= turn]) for i, s in enumerate(plot))
    return " ".join(_single(rng, rng.choice(order[:2])) for _ in range(rng.randrange(2, 6)))


def documents(seed: int, count: int) -> Iterator[Document]:
    """Documents of the corpus, none of which states a held-out combination.

    Args:
        seed: Decides every choice; different seeds give different documents of the same world.
        count: How many documents.

    Yields:
        Documents of all kinds, in random order.
    """
    rng = random.Random(seed)
    weights = [weight for weight, _, _ in _WRITERS]
    for _ in range(count):
        if rng.random() < 0.09:
            yield Document(_mixed(rng), "mixed", None)
            continue
        language = rng.choice(LANGUAGES)
        _, kind, write = rng.choices(_WRITERS, weights)[0]
        yield Document(write(rng, language), kind, language)
