"""`all` and `all-batch`: one global stable sort over every feature of every source, whatever route it took."""

from typing import Any

import pytest

from core.errors import InvalidRequest, NotFound
from core.exchange.rankings import all_features, all_features_batch
from tests.gpt2_with_saes import RES_JB, Truth
from tests.tiny_models import D_SAE

from .conftest import Tokens
from .front import BATCH_LIMIT, BOS, MAX_NUM_RESULTS, TOKEN_LIMIT, Front, near, prompt_of

TEXT = "The quick brown fox, le chat dort."
SETS = {
    "res-jb": RES_JB,
    "att-kk": ("1-att-kk", "2-att-kk"),
    "mix": ("1-mix", "2-mix", "3-mix", "4-mix", "5-mix"),
}


def body(source_set: str = "res-jb", **changes: Any) -> dict[str, Any]:
    return {
        "prompt": TEXT,
        "model": "gpt2-small",
        "sourceSet": source_set,
        "selectedSources": [],
        "sortByTokenIndexes": [],
        "ignoreBos": True,
        "numResults": 25,
    } | changes


def ranking(  # one argument per rule of the route
    truth: Truth,
    ids: tuple[int, ...],
    sources: tuple[str, ...],
    *,
    k: int = 25,
    sort_by: tuple[int, ...] = (),
    silent_bos: bool = True,
    wanted: set[int] | None = None,
) -> list[dict[str, Any]]:
    """The reply's `activations`, from whole encodings and Python's stable sort."""
    rows = []
    for source in sources:
        features = truth.features(ids, source).numpy().copy()
        if silent_bos:
            features[0] = 0
        for index in range(features.shape[1]):
            if wanted is None or index in wanted:
                column = features[:, index]
                rows.append((float(column[list(sort_by)].sum() if sort_by else column.max()), source, index, column))
    reply = []
    for key, source, index, column in sorted(rows, key=lambda row: -row[0])[:k]:
        top = int(column.argmax())
        dfa = truth.dfa(ids, source, index, top).numpy() if "-att-" in source else None
        reply.append(
            {
                "source": source,
                "index": index,
                "values": near(column),
                "sumValues": near(key if sort_by else 0.0),
                "maxValue": near(column.max()),
                "maxValueIndex": top,
                "dfaValues": near(dfa),
                "dfaMaxValue": near(None if dfa is None else dfa.max()),
                "dfaTargetIndex": None if dfa is None else top,
            }
        )
    return reply


@pytest.mark.parametrize("source_set", SETS)
@pytest.mark.parametrize("ignore_bos", [True, False])
def test_the_strongest_features_of_a_set_come_first(
    front: Front, truth: Truth, tokens: Tokens, source_set: str, ignore_bos: bool
) -> None:
    found = front.answer(all_features, body(source_set, ignoreBos=ignore_bos))
    wanted = ranking(truth, tokens.ids(TEXT), SETS[source_set], silent_bos=ignore_bos)
    assert found["activations"] == wanted
    assert found["tokens"] == tokens.strings(TEXT)
    assert found["counts"] is None


@pytest.mark.parametrize("sort_by", [(1,), (3, 1), (0, 2)])
@pytest.mark.parametrize("source_set", ["res-jb", "att-kk"])
def test_sorting_by_tokens_ranks_by_the_sum_there(
    front: Front, truth: Truth, tokens: Tokens, source_set: str, sort_by: tuple[int, ...]
) -> None:
    found = front.answer(all_features, body(source_set, sortByTokenIndexes=list(sort_by)))
    assert found["activations"] == ranking(truth, tokens.ids(TEXT), SETS[source_set], sort_by=sort_by)


def test_only_the_selected_sources_take_part_in_their_order(front: Front, truth: Truth, tokens: Tokens) -> None:
    selected = ["3-res-jb", "0-res-jb"]
    found = front.answer(all_features, body(selectedSources=selected, numResults=40))
    assert found["activations"] == ranking(truth, tokens.ids(TEXT), tuple(selected), k=40)


def test_a_source_selected_twice_counts_once(front: Front) -> None:
    once = front.answer(all_features, body(selectedSources=["1-res-jb", "2-res-jb"]))
    assert front.answer(all_features, body(selectedSources=["1-res-jb", "2-res-jb", "1-res-jb"])) == once


def test_a_source_of_another_set_is_reported_under_its_own_name(front: Front, truth: Truth, tokens: Tokens) -> None:
    found = front.answer(all_features, body("res-jb", selectedSources=["2-mix", "1-att-kk"]))
    assert found["activations"] == ranking(truth, tokens.ids(TEXT), ("2-mix", "1-att-kk"))


@pytest.mark.parametrize("wanted", [[5], [90, 3, 70, 3], list(range(D_SAE))])
@pytest.mark.parametrize("source_set", SETS)
def test_a_feature_filter_restricts_every_source(
    front: Front, truth: Truth, tokens: Tokens, source_set: str, wanted: list[int]
) -> None:
    found = front.answer(all_features, body(source_set, featureFilter=wanted))
    assert found["activations"] == ranking(truth, tokens.ids(TEXT), SETS[source_set], wanted=set(wanted))


def test_an_empty_filter_is_none(front: Front) -> None:
    assert front.answer(all_features, body(featureFilter=[])) == front.answer(all_features, body())


def test_ties_go_to_the_earlier_source_then_to_the_lower_index(front: Front) -> None:
    """Every position is BOS and the only one is silent, so all features tie at zero."""
    found = front.answer(all_features, body(prompt="", selectedSources=["2-res-jb", "0-res-jb"], numResults=100))
    listed = [(feature["source"], feature["index"]) for feature in found["activations"]]
    assert listed == [("2-res-jb", n) for n in range(D_SAE)] + [("0-res-jb", n) for n in range(4)]
    assert {feature["maxValueIndex"] for feature in found["activations"]} == {0}


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (None, 25), (10**9, MAX_NUM_RESULTS)])
def test_as_many_features_as_asked_for_and_no_more_than_the_limit(front: Front, asked: int | None, given: int) -> None:
    assert len(front.answer(all_features, body(numResults=asked))["activations"]) == given


def test_all_features_are_reported_when_there_are_no_more(front: Front) -> None:
    found = front.answer(all_features, body(selectedSources=["0-res-jb"], numResults=MAX_NUM_RESULTS))["activations"]
    assert sorted(feature["index"] for feature in found) == list(range(D_SAE))


@pytest.mark.parametrize("ignore_bos", [True, False])
def test_without_a_bos_the_first_token_counts(
    front_without_bos: Front, truth: Truth, tokens: Tokens, ignore_bos: bool
) -> None:
    found = front_without_bos.answer(all_features, body(ignoreBos=ignore_bos))
    ids = tokens.ids(TEXT, bos=False)
    assert found["activations"] == ranking(truth, ids, RES_JB, silent_bos=False)
    assert found["tokens"] == tokens.strings(TEXT, bos=False)


def test_a_bos_inside_the_text_counts(front: Front, truth: Truth, tokens: Tokens) -> None:
    text = f"Hi{BOS} there"
    found = front.answer(all_features, body(prompt=text))
    assert found["activations"] == ranking(truth, tokens.ids(text), RES_JB)


def test_a_batch_answers_each_prompt_as_if_alone(front: Front, truth: Truth, tokens: Tokens) -> None:
    prompts = [TEXT, "Hi", "Hello 🐈‍⬛ world", TEXT]
    request = body("att-kk", prompts=prompts, sortByTokenIndexes=[1])
    results = front.answer(all_features_batch, request)["results"]
    for text, result in zip(prompts, results, strict=True):
        assert result["activations"] == ranking(truth, tokens.ids(text), SETS["att-kk"], sort_by=(1,))
        assert result["tokens"] == tokens.strings(text)
    assert [f["index"] for f in results[0]["activations"]] == [f["index"] for f in results[3]["activations"]]
    assert results[0]["activations"][0]["values"] == near(results[3]["activations"][0]["values"])


N_TOKENS = "the prompt has 3 tokens"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sourceSet": "res-nobody"}, NotFound, "Invalid source set: res-nobody"),
        ({"sourceSet": ""}, NotFound, "Invalid source set"),
        ({"selectedSources": ["0-res-jb", "77-res-jb"]}, NotFound, "no source '77-res-jb'"),
        ({"selectedSources": [""]}, NotFound, "no source ''"),
        ({"sortByTokenIndexes": [3]}, InvalidRequest, rf"Token indexes \[3\] to sort by are out of range; {N_TOKENS}"),
        ({"sortByTokenIndexes": [0, -1]}, InvalidRequest, rf"Token indexes \[-1\] .*; {N_TOKENS}"),
        ({"numResults": 0}, InvalidRequest, "numResults must be at least 1, got 0"),
        ({"numResults": -5}, InvalidRequest, "numResults must be at least 1, got -5"),
        ({"featureFilter": [4, -2]}, InvalidRequest, "featureFilter holds a negative feature index: -2"),
        ({"featureFilter": [D_SAE]}, InvalidRequest, "featureFilter names feature 96, but no selected source"),
        ({"featureFilter": [64], "selectedSources": ["1-mix"]}, InvalidRequest, "more than 64 features"),
    ],
)
def test_a_bad_request_is_refused_with_the_reason(
    front: Front, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        front.answer(all_features, body(prompt="Hi") | changes)
    with pytest.raises(error, match=message):
        front.answer(all_features_batch, body(prompts=["Hi"]) | changes)


def test_sort_indexes_have_to_fit_every_prompt_of_a_batch(front: Front) -> None:
    request = body(prompts=[TEXT, "Hi"], sortByTokenIndexes=[5])
    with pytest.raises(InvalidRequest, match=N_TOKENS):
        front.answer(all_features_batch, request)


def test_an_unknown_set_is_told_what_is_served(front: Front) -> None:
    with pytest.raises(NotFound) as refusal:
        front.answer(all_features, body("res-nobody"))
    for source_set, sources in SETS.items():
        assert f"{source_set} ({sources[0]} to {sources[-1]})" in (refusal.value.hint or "")


def test_a_prompt_may_be_as_long_as_the_limit_and_no_longer(front: Front) -> None:
    longest, too_long = prompt_of(TOKEN_LIMIT), prompt_of(TOKEN_LIMIT + 1)
    assert len(front.answer(all_features, body(prompt=longest))["tokens"]) == TOKEN_LIMIT
    with pytest.raises(InvalidRequest, match=f"Text too long: {TOKEN_LIMIT + 1} tokens, max is {TOKEN_LIMIT}"):
        front.answer(all_features, body(prompt=too_long))
    with pytest.raises(InvalidRequest, match="max is 40 for batch requests"):
        front.answer(all_features_batch, body(prompts=["Hi", too_long]))


def test_a_batch_has_at_least_one_prompt_and_at_most_the_limit(front: Front) -> None:
    with pytest.raises(InvalidRequest, match="At least one prompt is required"):
        front.answer(all_features_batch, body(prompts=[]))
    with pytest.raises(InvalidRequest, match=f"Batch size {BATCH_LIMIT + 1} exceeds maximum of {BATCH_LIMIT}"):
        front.answer(all_features_batch, body(prompts=["Hi"] * (BATCH_LIMIT + 1)))


def test_an_empty_prompt_without_a_bos_is_refused(front_without_bos: Front) -> None:
    with pytest.raises(InvalidRequest, match="The prompt is empty"):
        front_without_bos.answer(all_features, body(prompt=""))
