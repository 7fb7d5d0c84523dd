"""Stop strings end a text wherever its letters say so, however the text was cut into tokens."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.generation.stops import StopStrings

# Few letters, so that stop strings occur, overlap and repeat.
texts = st.text("ab\n", max_size=14)
stop_strings = st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=4)


def ended_by_letters(text: str, stops: list[str]) -> str:
    """The text as a person would end it who reads one letter after the other."""
    for n in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:n].endswith(stop)]
        if complete:
            return text[: n - max(map(len, complete))]
    return text


def shown(pieces: list[str], stops: StopStrings) -> list[str]:
    """What a reader of the stream has seen after each piece, the last entry after the end."""
    text, seen = "", [""]
    for piece in pieces:
        text += piece
        cut = stops.cut(text)
        if cut is not None:
            return [*seen, text[:cut]]
        seen.append(text[: len(text) - stops.held(text)])
    return [*seen, text]


@given(text=texts, stops=stop_strings, cuts=st.lists(st.integers(0, 14)))
def test_a_text_ends_at_the_first_complete_stop_string_however_it_arrives(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    assert shown(pieces, StopStrings(stops))[-1] == ended_by_letters(text, stops)


@given(text=texts, stops=stop_strings)
def test_what_was_shown_is_never_taken_back(text: str, stops: list[str]) -> None:
    seen = shown(list(text), StopStrings(stops))
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))


def test_a_beginning_that_comes_to_nothing_is_shown() -> None:
    assert shown(["Hello", " wor", "ld"], StopStrings([" world!"])) == ["", "Hello", "Hello", "Hello", "Hello world"]


@pytest.mark.parametrize(
    ("text", "stops", "kept"),
    [
        ("one\n\ntwo", ["\n\n"], "one"),
        ("one. two.", ["two", "."], "one"),
        ("stop", ["stop"], ""),
        ("a longer end", ["end", "longer end"], "a "),
    ],
)
def test_the_stop_string_itself_is_not_part_of_the_text(text: str, stops: list[str], kept: str) -> None:
    cut = StopStrings(stops).cut(text)
    assert cut is not None
    assert text[:cut] == kept


def test_without_stop_strings_nothing_is_held_back() -> None:
    none = StopStrings()
    assert not none
    assert none.cut("anything") is None
    assert none.held("anything") == 0
