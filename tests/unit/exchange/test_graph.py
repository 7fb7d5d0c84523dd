"""`/generate-graph` and `/forward-pass`: what reaches the stages, what is refused before them, and the replies."""

import json
from typing import Any

import pytest

from core.errors import InvalidRequest
from core.exchange.graph import (
    ServedGraphs,
    forward_pass,
    generate_graph,
    missed_deadline,
    unavailable_model,
    uploaded,
)
from core.graph.requests import ForwardPassAnswer, GraphQuestion
from core.wire.base import render
from core.wire.graph import ForwardPassRequest, GraphGenerationRequest
from tests.unit import tiny_tokenizers as tiny

from .graphs import letters, served_graphs

BODY: dict[str, Any] = {"prompt": "abcab", "model_id": "rayscope-demo", "slug_identifier": "my-graph"}


@pytest.fixture(scope="module")
def graphs() -> ServedGraphs:
    return served_graphs(letters(adds_bos=True))


def question(graphs: ServedGraphs, **changes: Any) -> GraphQuestion:
    return generate_graph(GraphGenerationRequest.model_validate(BODY | changes), graphs, 1760000000.9)


def refusal(graphs: ServedGraphs, **changes: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        question(graphs, **changes)
    return refused.value


def test_a_request_says_what_the_graph_is_made_of(graphs: ServedGraphs) -> None:
    asked = question(
        graphs,
        batch_size=32,
        max_n_logits=7,
        desired_logit_prob=0.5,
        node_threshold=0.25,
        edge_threshold=1,
        max_feature_nodes=77,
        user_id="somebody",
        compress=True,
        signed_url="https://storage/x?signature=secret",
        labels={"2_39": "cats", "0_0": "dogs"},
    )
    assert asked.prompt.ids == (0, 2, 3, 4, 2, 3)
    assert asked.prompt.n_silent == 1
    options = asked.attribution
    assert (options.batch_size, options.max_n_logits, options.desired_logit_prob) == (32, 7, 0.5)
    assert (options.max_feature_nodes, options.targets) == (77, None)
    assert (asked.pruning.node_threshold, asked.pruning.edge_threshold) == (0.25, 1.0)
    assert (asked.slug, asked.creator) == ("my-graph", "somebody")
    assert asked.labels == {(2, 39): "cats", (0, 0): "dogs"}
    assert (asked.delivery.signed_url, asked.delivery.compress) == ("https://storage/x?signature=secret", True)
    assert "secret" not in repr(asked)


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_prompt_has_one_bos_whoever_writes_it(adds_bos: bool) -> None:
    graphs = served_graphs(letters(adds_bos=adds_bos))
    for prompt in ("abc", "<bos>abc"):
        assert question(graphs, prompt=prompt).prompt.ids == (0, 2, 3, 4)


def test_messages_take_the_place_of_the_prompt() -> None:
    graphs = served_graphs(tiny.gemma())
    messages = [{"role": "user", "content": "cat"}, {"role": "assistant", "content": ""}]
    wanted = tiny.gemma()("<start_of_turn>user\ncat<end_of_turn>\n<start_of_turn>model\n")["input_ids"]
    asked = forward_pass(ForwardPassRequest(messages=messages, prompt="ignored"), graphs)  # type: ignore[arg-type]
    assert asked.question.prompt == tuple(wanted)
    asked = forward_pass(ForwardPassRequest(messages=[], prompt="cat"), graphs)
    assert asked.question.prompt == tuple(tiny.gemma()("cat")["input_ids"])


def test_a_long_prompt_is_refused_in_the_peers_words(graphs: ServedGraphs) -> None:
    assert len(question(graphs, prompt="a" * 12).prompt.ids) == 13  # what the tokenizer adds does not count
    assert refusal(graphs, prompt="a" * 13).message == "Prompt exceeds token limit (13 > 12)"
    assert refusal(graphs, prompt="<bos>" + "a" * 12).message == "Prompt exceeds token limit (13 > 12)"
    assert refusal(graphs, prompt="a" * 10**6, node_threshold=5).message.startswith("Prompt exceeds token limit (")


def test_another_model_is_refused_in_the_peers_words() -> None:
    assert unavailable_model("x", ["y"]).message == "Model 'x' is not available. Only 'y' is currently loaded."
    assert "Only 'y', 'z' are" in unavailable_model("x", ["y", "z"]).message
    assert "Only none is" in unavailable_model("x", []).message


def test_a_graph_without_a_name_gets_one(graphs: ServedGraphs) -> None:
    assert question(graphs, slug_identifier="").slug == "generated-1760000000"


def test_the_batch_size_is_a_knob_and_is_turned_down(graphs: ServedGraphs) -> None:
    assert question(graphs, batch_size=10**9).attribution.batch_size == 64
    assert refusal(graphs, batch_size=0).message == "batch_size must be at least 1, got 0"


def test_how_many_features_a_graph_has(graphs: ServedGraphs) -> None:
    assert question(graphs).attribution.max_feature_nodes == 500
    assert question(graphs, max_feature_nodes=900).attribution.max_feature_nodes == 900
    assert question(graphs, max_feature_nodes=0).attribution.max_feature_nodes is None
    for wrong in (901, -1):
        assert refusal(graphs, max_feature_nodes=wrong).message.startswith("max_feature_nodes must be from 0 to 900")


@pytest.mark.parametrize(
    "wrong",
    [
        {"node_threshold": -0.1},
        {"node_threshold": 1.01},
        {"edge_threshold": 2},
        {"desired_logit_prob": 1.5},
        {"max_n_logits": 0},
        {"max_n_logits": 21},
        {"max_n_logits": 10**30},
    ],
)
def test_numbers_out_of_range_are_named(graphs: ServedGraphs, wrong: dict[str, Any]) -> None:
    (name,) = wrong
    assert refusal(graphs, **wrong).message.startswith(f"{name} must be from ")


@pytest.mark.parametrize("threshold", [0, 1])
def test_the_ends_of_the_scale_are_thresholds(graphs: ServedGraphs, threshold: int) -> None:
    pruning = question(graphs, node_threshold=threshold, edge_threshold=threshold).pruning
    assert (pruning.node_threshold, pruning.edge_threshold) == (threshold, threshold)


def test_targets_are_ids_or_texts_of_one_token(graphs: ServedGraphs) -> None:
    assert question(graphs, targets=["c", 7, "<bos>"]).attribution.targets == (4, 7, 0)
    assert refusal(graphs, targets=["ab"]).message == "The target 'ab' is 2 tokens, not one ('a', 'b')"
    assert refusal(graphs, targets=[""]).message == "The target '' is 0 tokens, not one (none)"
    assert refusal(graphs, targets=["c", 4]).message == "Token 4 is a target twice"
    assert refusal(graphs, targets=[]).message == "The list of targets is empty"
    for wrong in (-1, 4000):
        assert refusal(graphs, targets=[wrong]).message == f"A target must be from 0 to 3999, got {wrong}"
    assert refusal(graphs, targets=list(range(21))).message.startswith("The number of targets must be")


@pytest.mark.parametrize("name", ["3", "0_1_2", "x_1", "0_-1", "-1_0", "", "\u0663_1"])
def test_labels_are_named_by_layer_and_feature(graphs: ServedGraphs, name: str) -> None:
    assert refusal(graphs, labels={name: "cats"}).message == f"'{name}' names no feature"


def test_labels_of_features_that_are_not_there_are_refused(graphs: ServedGraphs) -> None:
    assert refusal(graphs, labels={"3_0": "cats"}).message == "layer must be from 0 to 2, got 3"
    assert refusal(graphs, labels={"0_40": "cats"}).message == "index must be from 0 to 39, got 40"
    assert "not valid Unicode" in refusal(graphs, labels={"0_1": "\ud800"}).message
    assert "the most are 1000" in refusal(graphs, labels={"0_1": "x" * 1001}).message


def test_a_graph_goes_to_one_place(graphs: ServedGraphs) -> None:
    assert question(graphs, destination="s3://bucket/key").delivery.destination == "s3://bucket/key"
    both = refusal(graphs, destination="s3://bucket/key", signed_url="https://storage/x?signature=secret")
    assert both.message == "A graph goes to signed_url or to destination, not to both"
    assert "secret" not in str(both)


def test_what_is_not_served_is_not_ignored(graphs: ServedGraphs) -> None:
    assert refusal(graphs, enable_qk_tracing=True).message.startswith("enable_qk_tracing needs attention features")
    assert question(graphs, qk_topk=3, qk_top_fraction=0.5) == question(graphs)


def test_instruction_tuned_gemma_3_begins_with_a_turn() -> None:
    graphs = served_graphs(tiny.gemma(), "gemma-3-4b-it")
    with pytest.raises(InvalidRequest, match="must begin with the turn of a user"):
        forward_pass(ForwardPassRequest(prompt="cat"), graphs)
    chat = ForwardPassRequest(messages=[{"role": "user", "content": "cat"}])  # type: ignore[list-item]
    assert forward_pass(chat, graphs).question.prompt[0] == tiny.gemma().bos_token_id


def test_what_comes_after_a_prompt_is_shown_with_its_tokens(graphs: ServedGraphs) -> None:
    exchange = forward_pass(ForwardPassRequest(prompt="abc", max_n_logits=3, desired_logit_prob=0.9), graphs)
    assert exchange.question.prompt == (0, 2, 3, 4)
    assert (exchange.question.max_n_logits, exchange.question.desired_logit_prob) == (3, 0.9)
    reply = exchange.reply(ForwardPassAnswer((5, 1), (0.5, 0.25)))
    assert json.loads(render(reply, "camel")) == {
        "prompt": "abc",
        "input_tokens": ["<bos>", "a", "b", "c"],
        "salient_logits": [
            {"token": "d", "token_id": 5, "probability": 0.5},
            {"token": "<eos>", "token_id": 1, "probability": 0.25},
        ],
        "total_salient_tokens": 2,
        "cumulative_probability": 0.75,
    }


def test_a_prompt_too_long_for_a_graph_can_still_be_counted(graphs: ServedGraphs) -> None:
    exchange = forward_pass(ForwardPassRequest(prompt="a" * 30), graphs)
    assert len(exchange.reply(ForwardPassAnswer((), ())).input_tokens) == 31
    with pytest.raises(InvalidRequest, match="max is 64"):
        forward_pass(ForwardPassRequest(prompt="a" * 100), graphs)


def test_an_upload_is_acknowledged_in_the_peers_words() -> None:
    assert json.loads(render(uploaded("https://storage/x"), "camel")) == {
        "success": "Graph uploaded successfully to url: https://storage/x",
        "error": None,
        "url": None,
        "detail": None,
    }
    assert uploaded("s3://bucket/key", "https://storage/signed").url == "https://storage/signed"


def test_work_that_nobody_waits_for_says_by_how_much() -> None:
    assert missed_deadline(None, 100.0) is None
    assert missed_deadline(100.0, 100.0) is None
    late = missed_deadline(100.0, 112.5)
    assert late is not None
    assert late.error.startswith("Request deadline exceeded by 12.50 seconds. ")
    assert (late.server_time, late.deadline, late.delta_seconds) == (112.5, 100.0, 12.5)
