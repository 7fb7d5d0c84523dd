"""The real Python client of the peer, version 1.10.1 from PyPI, drives every method whose route exists so far."""

from collections.abc import Iterator

import neuronpedia_inference_client as npc
import pytest

from tests.serve.conftest import DEMO, SECRET, RunningCluster

TEXT = "Le chat dort sur le tapis."


@pytest.fixture(scope="module")
def client(cluster: RunningCluster) -> Iterator[npc.DefaultApi]:
    configuration = npc.Configuration(host=f"{cluster.locked_url}/v1", api_key={"SimpleSecretAuth": SECRET})
    with npc.ApiClient(configuration) as api_client:
        yield npc.DefaultApi(api_client)


def test_single(client: npc.DefaultApi) -> None:
    request = npc.ActivationSinglePostRequest(prompt=TEXT, model=DEMO, source="2-res-demo", index="17")
    answer = client.activation_single_post(request)
    assert answer.activation.values is not None
    assert answer.tokens is not None
    assert len(answer.activation.values) == len(answer.tokens)
    assert answer.activation.max_value == max(answer.activation.values)


def test_single_with_dfa(client: npc.DefaultApi) -> None:
    request = npc.ActivationSinglePostRequest(prompt=TEXT, model=DEMO, source="2-att-demo", index="17")
    activation = client.activation_single_post(request).activation
    assert activation.dfa_values is not None
    assert len(activation.dfa_values) == len(activation.values)
    assert activation.dfa_max_value == pytest.approx(max(activation.dfa_values))


def test_single_batch(client: npc.DefaultApi) -> None:
    request = npc.ActivationSingleBatchPostRequest(prompts=[TEXT, "Hello"], model=DEMO, source="2-res-demo", index="17")
    assert len(client.activation_single_batch_post(request).results) == 2


def test_all_and_all_batch(client: npc.DefaultApi) -> None:
    question = {
        "model": DEMO,
        "source_set": "res-demo",
        "selected_sources": ["1-res-demo", "2-res-demo"],
        "sort_by_token_indexes": [],
        "ignore_bos": True,
        "num_results": 4,
    }
    answer = client.activation_all_post(npc.ActivationAllPostRequest(prompt=TEXT, **question))
    assert len(answer.activations) == 4
    assert {feature.source for feature in answer.activations} <= {"1-res-demo", "2-res-demo"}
    batch = client.activation_all_batch_post(npc.ActivationAllBatchPostRequest(prompts=[TEXT, "x"], **question))
    first = [(f.source, f.index) for f in batch.results[0].activations]
    assert first == [(f.source, f.index) for f in answer.activations]


def test_source(client: npc.DefaultApi) -> None:
    request = npc.ActivationSourcePostRequest(prompts=[TEXT], model=DEMO, source="2-res-demo")
    result = client.activation_source_post(request).results[0]
    assert result.active_features
    assert all(pair[0] >= 1 for pairs in result.active_features.values() for pair in pairs)


def test_topk_by_token_and_batch(client: npc.DefaultApi) -> None:
    question = {"model": DEMO, "source": "2-res-demo", "top_k": 3, "ignore_bos": True}
    answer = client.activation_topk_by_token_post(npc.ActivationTopkByTokenPostRequest(prompt=TEXT, **question))
    assert [len(row.top_features) for row in answer.results] == [3] * len(answer.tokens)
    batch = client.activation_topk_by_token_batch_post(
        npc.ActivationTopkByTokenBatchPostRequest(prompts=[TEXT], **question)
    )
    assert [row.token for row in batch.results[0].results] == [row.token for row in answer.results]


def test_tokenize(client: npc.DefaultApi) -> None:
    answer = client.tokenize_post(npc.TokenizePostRequest(model=DEMO, text=TEXT, prepend_bos=True))
    assert answer.prepend_bos
    assert len(answer.tokens) == len(answer.token_strings)


def test_neighbours_and_vector(client: npc.DefaultApi) -> None:
    feature = npc.NPFeature(model=DEMO, source="2-res-demo", index=17)
    near = client.util_sae_topk_by_decoder_cossim_post(
        npc.UtilSaeTopkByDecoderCossimPostRequest(feature=feature, model=DEMO, source="2-res-demo", num_results=3)
    )
    assert near.topk_decoder_cossim_features[0].feature.index == 17
    assert near.topk_decoder_cossim_features[0].cosine_similarity == pytest.approx(1.0)
    vector = client.util_sae_vector_post(npc.UtilSaeVectorPostRequest(model=DEMO, source="2-res-demo", index=17))
    assert vector.hook_name == "blocks.2.hook_resid_post"


def test_a_wrong_secret_is_unauthorised(cluster: RunningCluster) -> None:
    configuration = npc.Configuration(host=f"{cluster.locked_url}/v1", api_key={"SimpleSecretAuth": "guess"})
    with npc.ApiClient(configuration) as api_client, pytest.raises(npc.ApiException) as refusal:
        npc.DefaultApi(api_client).tokenize_post(npc.TokenizePostRequest(model=DEMO, text=TEXT))
    assert refusal.value.status == 401
