"""Every route over HTTP equals a plain transformers forward and SAELens' own encode, on the demo and on GPT-2."""

from typing import Any

import pytest
import torch

from core.demo import ARTEFACTS
from tests.serve.conftest import DEMO, GPT2, RunningCluster
from tests.truth import Truth, folder_sae, published_sae

TEXT = "Le chat dort sur le tapis."


@pytest.fixture(scope="module")
def demo() -> Truth:
    return Truth(str(ARTEFACTS / "model"))


@pytest.fixture(scope="module")
def gpt2(cluster: RunningCluster) -> Truth:
    return Truth("openai-community/gpt2")


@torch.no_grad()
def encode_demo(truth: Truth, layer: int, text: str = TEXT) -> torch.Tensor:
    """`[pos, d_sae]`, BOS included."""
    sae = folder_sae(ARTEFACTS / "res-demo" / f"{layer}-res-demo")
    return sae.encode(truth.residual(text, layer, "post"))


@torch.no_grad()
def encode_gpt2(truth: Truth, layer: int, text: str = TEXT) -> torch.Tensor:
    sae = published_sae("gpt2-small-res-jb", f"blocks.{layer}.hook_resid_pre")
    return sae.encode(truth.residual(text, layer, "pre"))


def close(expected: torch.Tensor) -> Any:
    return pytest.approx(expected.tolist(), rel=1e-3, abs=1e-3)


def test_single_equals_the_plain_forward_on_the_demo(cluster: RunningCluster, demo: Truth) -> None:
    encoded = encode_demo(demo, 2)
    index = int(encoded[1:].amax(0).argmax())
    body = {"prompt": TEXT, "model": DEMO, "source": "2-res-demo", "index": str(index)}
    answer = cluster.post("/v1/activation/single", body).json()
    expected = encoded[1:, index]
    assert answer["tokens"] == demo.strings(TEXT)[1:]
    assert answer["activation"]["values"] == close(expected)
    assert answer["activation"]["maxValue"] == pytest.approx(float(expected.max()), rel=1e-3)
    assert answer["activation"]["maxValueIndex"] == int(expected.argmax())
    assert answer["activation"]["dfaValues"] is None


def test_single_equals_the_plain_forward_on_gpt2_from_the_hub(cluster: RunningCluster, gpt2: Truth) -> None:
    encoded = encode_gpt2(gpt2, 2)
    body = {"prompt": TEXT, "model": "openai-community/gpt2", "source": "2-res-jb", "index": "7"}
    answer = cluster.post("/v1/activation/single", body).json()
    assert answer["activation"]["values"] == close(encoded[1:, 7])


def test_a_vector_is_projected_without_normalising(cluster: RunningCluster, gpt2: Truth) -> None:
    vector = [0.1] * 32
    body = {"prompt": TEXT, "model": GPT2, "vector": vector, "hook": "blocks.0.hook_resid_post"}
    answer = cluster.post("/v1/activation/single", body).json()
    ids = gpt2.tokenizer(TEXT)["input_ids"]  # GPT-2's tokenizer adds no BOS, so a vector's prompt has none
    with torch.no_grad():
        hidden = gpt2.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
    assert answer["activation"]["values"] == close(hidden @ torch.tensor(vector))
    assert len(answer["tokens"]) == len(ids)


def test_all_ranks_like_one_global_sort(cluster: RunningCluster, demo: Truth) -> None:
    layers = range(4)
    encoded = torch.cat([encode_demo(demo, layer) for layer in layers], dim=1)
    encoded[0] = 0
    width = encoded.shape[1] // len(layers)
    best = torch.sort(encoded.amax(0), descending=True, stable=True).indices[:12].tolist()
    body = {
        "prompt": TEXT,
        "model": DEMO,
        "sourceSet": "res-demo",
        "selectedSources": [],
        "sortByTokenIndexes": [],
        "ignoreBos": True,
        "numResults": 12,
    }
    answer = cluster.post("/v1/activation/all", body).json()
    got = [(feature["source"], feature["index"]) for feature in answer["activations"]]
    assert got == [(f"{column // width}-res-demo", column % width) for column in best]
    for feature, column in zip(answer["activations"], best, strict=True):
        assert feature["values"] == close(encoded[:, column])
        assert feature["maxValueIndex"] == int(encoded[:, column].argmax())
        assert feature["sumValues"] == 0
    assert answer["tokens"] == demo.strings(TEXT)
    assert answer["counts"] is None


def test_all_sorts_by_chosen_tokens_and_filters_features(cluster: RunningCluster, demo: Truth) -> None:
    encoded = encode_demo(demo, 1)
    wanted = sorted(encoded[[2, 3]].sum(0).topk(6).indices.tolist())
    body = {
        "prompt": TEXT,
        "model": DEMO,
        "source_set": "res-demo",
        "selected_sources": ["1-res-demo"],
        "sort_by_token_indexes": [2, 3],
        "ignore_bos": False,
        "num_results": 3,
        "feature_filter": wanted,
    }
    answer = cluster.post("/v1/activation/all", body).json()
    sums = encoded[[2, 3]].sum(0)
    best = sorted(wanted, key=lambda index: -float(sums[index]))[:3]
    assert [feature["index"] for feature in answer["activations"]] == best
    assert [feature["sum_values"] for feature in answer["activations"]] == close(sums[best])


def test_a_ranking_over_two_runners_is_merged_exactly(cluster: RunningCluster, gpt2: Truth) -> None:
    from tests.truth import folder_sae as local_sae

    published = encode_gpt2(gpt2, 2)
    local = local_sae(cluster.folder / "local" / "1-local")
    with torch.no_grad():
        other = local.encode(gpt2.residual(TEXT, 1, "post"))
    keys = torch.cat([published[1:].amax(0), other[1:].amax(0)])
    best = torch.sort(keys, descending=True, stable=True).indices[:10].tolist()
    body = {
        "prompt": TEXT,
        "model": GPT2,
        "sourceSet": "res-jb",
        "selectedSources": ["2-res-jb", "1-local"],
        "sortByTokenIndexes": [],
        "ignoreBos": True,
        "numResults": 10,
    }
    answer = cluster.post("/v1/activation/all", body).json()
    width = published.shape[1]
    expected = [("2-res-jb", c) if c < width else ("1-local", c - width) for c in best]
    assert [(f["source"], f["index"]) for f in answer["activations"]] == expected


def test_source_lists_every_active_feature(cluster: RunningCluster, demo: Truth) -> None:
    encoded = encode_demo(demo, 3)
    body = {"prompts": [TEXT], "model": DEMO, "source": "3-res-demo"}
    result = cluster.post("/v1/activation/source", body).json()["results"][0]
    expected: dict[str, list[list[float]]] = {}
    for position in range(1, len(encoded)):
        for index in encoded[position].nonzero().squeeze(1).tolist():
            expected.setdefault(str(index), []).append([position, float(encoded[position, index])])
    assert list(result["activeFeatures"]) == list(expected)
    for index, pairs in expected.items():
        assert result["activeFeatures"][index] == [[p, pytest.approx(v, abs=2e-3, rel=1e-3)] for p, v in pairs]


def test_topk_by_token_equals_topk_of_each_row(cluster: RunningCluster, demo: Truth) -> None:
    encoded = encode_demo(demo, 2)
    body = {"prompt": TEXT, "model": DEMO, "source": "2-res-demo", "topK": 3, "ignoreBos": True}
    answer = cluster.post("/v1/activation/topk-by-token", body).json()
    assert [row["tokenPosition"] for row in answer["results"]] == list(range(1, len(encoded)))
    for row in answer["results"]:
        best = encoded[row["tokenPosition"]].topk(3)
        assert [f["activationValue"] for f in row["topFeatures"]] == close(best.values)
        assert row["topFeatures"][0]["featureIndex"] == int(best.indices[0])


def test_batches_equal_singles(cluster: RunningCluster) -> None:
    prompts = ["Le chat dort.", "The capital of France is Paris, and the cat sleeps on the mat.", "Uno dos tres"]
    single = {"model": DEMO, "source": "2-res-demo", "index": "17"}
    batch = cluster.post("/v1/activation/single-batch", {"prompts": prompts, **single}).json()["results"]
    for prompt, result in zip(prompts, batch, strict=True):
        alone = cluster.post("/v1/activation/single", {"prompt": prompt, **single}).json()
        assert result["activation"]["values"] == pytest.approx(alone["activation"]["values"], abs=1e-4)
        assert result["tokens"] == alone["tokens"]
    ranking = {
        "model": DEMO,
        "sourceSet": "res-demo",
        "selectedSources": [],
        "sortByTokenIndexes": [],
        "ignoreBos": True,
        "numResults": 5,
    }
    batch = cluster.post("/v1/activation/all-batch", {"prompts": prompts, **ranking}).json()["results"]
    for prompt, result in zip(prompts, batch, strict=True):
        alone = cluster.post("/v1/activation/all", {"prompt": prompt, **ranking}).json()
        assert [f["index"] for f in result["activations"]] == [f["index"] for f in alone["activations"]]


def test_raw_is_the_residual_stream_at_the_last_token(cluster: RunningCluster, demo: Truth) -> None:
    body = {"prompts": [TEXT, "Hello"], "model": DEMO, "layers": [3, 0, 3]}
    answer = cluster.post("/v1/activation/raw", body).json()
    assert [layer["layer"] for layer in answer["results"][0]["activations"]] == [0, 3]
    for result, text in zip(answer["results"], [TEXT, "Hello"], strict=True):
        assert result["tokenIds"] == demo.ids(text)
        for layer in result["activations"]:
            assert layer["values"][0] == close(demo.residual(text, layer["layer"], "post")[-1])
            assert layer["tokenIndices"] == [len(demo.ids(text)) - 1]


def test_attention_keeps_the_strongest_keys_of_the_eager_pattern(cluster: RunningCluster, demo: Truth) -> None:
    answer = cluster.post("/v1/activation/attention", {"prompt": TEXT, "model": DEMO, "layer": 1, "head": 2}).json()
    from transformers import AutoModelForCausalLM

    eager: Any = AutoModelForCausalLM.from_pretrained(
        demo.weights, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        output = eager(input_ids=torch.tensor([demo.ids(TEXT)]), output_attentions=True)
    pattern = output.attentions[1][0, 2]
    length = len(demo.ids(TEXT))
    assert answer["seqLen"] == length
    expected: dict[int, float] = {}
    for query in range(length):
        for key in pattern[query].topk(min(8, length)).indices.tolist():
            if pattern[query, key] >= 0.005:
                expected[query * length + key] = float(pattern[query, key])
    assert answer["attentionIndices"] == sorted(expected)
    assert answer["attentionValues"] == pytest.approx([expected[i] for i in sorted(expected)], abs=2e-4)
    assert answer["maxActivation"] == pytest.approx(float(pattern[1:, 1:].max()), abs=2e-4)


def test_dfa_adds_up_what_each_token_contributed(cluster: RunningCluster, demo: Truth) -> None:
    from transformers import AutoModelForCausalLM

    layer = 2
    sae = folder_sae(ARTEFACTS / "att-demo" / f"{layer}-att-demo")
    with torch.no_grad():
        encoded = sae.encode(demo.heads(TEXT, layer))
    index = int(encoded[1:].amax(0).argmax())
    body = {"prompt": TEXT, "model": DEMO, "source": f"{layer}-att-demo", "index": str(index)}
    activation = cluster.post("/v1/activation/single", body).json()["activation"]
    assert activation["values"] == close(encoded[1:, index])

    eager: Any = AutoModelForCausalLM.from_pretrained(
        demo.weights, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    values: list[torch.Tensor] = []
    attention = eager.model.layers[layer].self_attn
    handle = attention.v_proj.register_forward_hook(lambda _, __, output: values.append(output[0]))
    with torch.no_grad():
        pattern = eager(input_ids=torch.tensor([demo.ids(TEXT)]), output_attentions=True).attentions[layer][0]
    handle.remove()
    n_heads, head_dim = pattern.shape[0], attention.head_dim
    v = values[0].view(len(pattern[0]), -1, head_dim)
    w = sae.W_enc[:, index].detach().view(n_heads, head_dim)
    target = int(encoded[1:, index].argmax()) + 1
    expected = torch.zeros(len(v))
    for head in range(n_heads):
        kv = head // (n_heads // v.shape[1])
        for position in range(len(v)):
            expected[position] += pattern[head, target, position] * (v[position, kv] @ w[head])
    assert activation["dfaTargetIndex"] == target - 1
    assert activation["dfaValues"] == pytest.approx(expected[1:].tolist(), abs=1e-3, rel=1e-3)
    assert activation["dfaMaxValue"] == pytest.approx(float(expected[1:].max()), abs=1e-3, rel=1e-3)


def test_sae_vector_is_the_encoder_column_and_cossim_the_decoder_cosine(cluster: RunningCluster) -> None:
    sae = folder_sae(ARTEFACTS / "res-demo" / "1-res-demo")
    body = {"model": DEMO, "source": "1-res-demo", "index": 9}
    vector = cluster.post("/v1/util/sae-vector", body).json()
    assert vector["vector"] == close(sae.W_enc[:, 9])
    assert vector["hookName"] == "blocks.1.hook_resid_post"

    decoder = sae.W_dec.detach().double()
    cosines = (decoder @ decoder[9]) / (decoder.norm(dim=1) * decoder[9].norm())
    near = cluster.post(
        "/v1/util/sae-topk-by-decoder-cossim",
        {"feature": body, "model": DEMO, "source": "1-res-demo", "numResults": 5},
    ).json()["topkDecoderCossimFeatures"]
    best = cosines.topk(5)
    assert [entry["feature"]["index"] for entry in near] == best.indices.tolist()
    assert [entry["cosineSimilarity"] for entry in near] == pytest.approx(best.values.tolist(), abs=1e-5)
    by_vector = cluster.post(
        "/v1/util/sae-topk-by-decoder-cossim",
        {"vector": decoder[9].tolist(), "model": DEMO, "source": "1-res-demo", "numResults": 5},
    ).json()
    assert by_vector["feature"] is None
    assert [e["feature"]["index"] for e in by_vector["topkDecoderCossimFeatures"]] == best.indices.tolist()


def test_chat_template_spans_cover_the_tokenizers_own_rendering(cluster: RunningCluster, demo: Truth) -> None:
    messages = [{"role": "user", "content": "Bonjour !"}, {"role": "assistant", "content": "Bonjour."}]
    answer = cluster.post("/v1/apply-chat-template", {"messages": messages, "model": DEMO}).json()
    expected = demo.tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    assert answer["tokens"] == list(expected["input_ids"] if hasattr(expected, "keys") else expected)
    assert [span["position"] for span in answer["spans"]] == list(range(len(answer["tokens"])))


def test_the_seeds_older_routes_answer_in_their_own_shape(cluster: RunningCluster, demo: Truth) -> None:
    encoded = encode_demo(demo, 2)
    index = int(encoded[1:].amax(0).argmax())
    body = {"text": TEXT, "model": DEMO, "layer": "2-res-demo", "index": str(index), "secret": "unused"}
    answer = cluster.post("/activations-test", body).json()
    assert answer["activations"]["values"][0] == 0
    assert answer["activations"]["values"][1:] == close(encoded[1:, index])
    assert answer["tokens"] == demo.strings(TEXT)
    near = cluster.post(
        "/top-k-by-decoder-cosine-similarity",
        {"sae_id": "2-res-demo", "feature_id": index, "model": DEMO, "k": 3, "secret": "unused"},
    ).json()
    assert near["feature_id"] == index
    assert near["top_k_features"][0] == {"cosine_similarity": pytest.approx(1.0), "index": index}
    ranking = cluster.post(
        "/activations-all",
        {
            "text": TEXT,
            "model": DEMO,
            "source_set": "res-demo",
            "selected_layers": ["2-res-demo"],
            "feature_filter": [index, 3],
            "secret": "unused",
        },
    ).json()
    assert {feature["index"] for feature in ranking["activations"]} == {index, 3}
