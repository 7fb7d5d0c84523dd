"""What a model says about itself on the wire."""

from core.exchange.overview import capabilities, model_info
from core.exchange.served import ServedModel
from core.residency import ResidencyStats
from tests.gpt2_with_saes import EVERY_SOURCE, Gpt2WithSaes

from .front import BATCH_LIMIT, GENERATION_LIMIT, MAX_NUM_RESULTS, TOKEN_LIMIT, Front


def test_model_info_lists_every_source_as_it_is(front: Front, world: Gpt2WithSaes) -> None:
    info = front.read(model_info(front.served))
    assert (info["id"], info["nLayers"], info["dModel"], info["chatTemplate"]) == ("gpt2-small", 12, 32, False)
    assert "openai-community/gpt2" in info["aliases"]
    listed = {source["id"]: source for entry in info["sourceSets"] for source in entry["sources"]}
    assert list(listed) == list(EVERY_SOURCE)
    for source_id, source in world.saes.items():
        entry = listed[source_id]
        assert (entry["hookName"], entry["dIn"], entry["dSae"]) == (source.hook_name, source.d_in, source.d_sae)
        assert entry["architecture"] == source.architecture
        assert entry["dfa"] == ("-att-" in source_id)
    assert [entry["nSources"] for entry in info["sourceSets"]] == [4, 2, 5]
    assert info["limits"] == {
        "tokenLimit": TOKEN_LIMIT,
        "generationLimit": GENERATION_LIMIT,
        "batchLimit": BATCH_LIMIT,
        "maxNumResults": MAX_NUM_RESULTS,
    }


def test_capabilities_say_what_is_served(front: Front) -> None:
    stats = ResidencyStats(
        budget_bytes=100,
        reserved_bytes=60,
        resident_bytes=50,
        resident_count=2,
        host_bytes=7,
        hits=3,
        misses=4,
        evictions=5,
        waiting=0,
    )
    told = front.read(capabilities(front.served, stats))
    assert (told["model"], told["backend"], told["num_layers"]) == ("gpt2-small", "eager", 12)
    assert told["sae_sets"] == ["res-jb", "att-kk", "mix"]
    assert told["token_limit"] == told["activation_token_limit"] == TOKEN_LIMIT
    assert told["max_num_results"] == MAX_NUM_RESULTS
    assert "blocks.11.hook_resid_post" in told["capture_points"]
    assert told["endpoints"]["dfa"] is told["endpoints"]["activation_all"] is told["endpoints"]["tokenize"] is True
    assert told["endpoints"]["steer_completion"] is True
    assert told["endpoints"]["neurons"] is told["endpoints"]["steer_completion_chat"] is False
    assert told["max_tokens"] == GENERATION_LIMIT
    cache = told["sae_cache"]
    assert (cache["resident_bytes"], cache["resident_count"], cache["registered_count"]) == (50, 2, 11)
    assert (cache["hits"], cache["misses"], cache["evictions"], cache["host_bytes"]) == (3, 4, 5, 7)


def test_a_model_without_saes_offers_what_needs_none(front: Front) -> None:
    import dataclasses

    description = front.served.description
    runner = dataclasses.replace(description.runners[0], sources=())
    bare = ServedModel(dataclasses.replace(description, runners=(runner,)), front.served.tokenizer)
    told = front.read(capabilities(bare, ResidencyStats(0, 0, 0, 0, 0, 0, 0, 0, 0)))
    offered = {name for name, is_offered in told["endpoints"].items() if is_offered}
    assert offered == {"tokenize", "activation_single", "activation_raw", "activation_attention", "steer_completion"}
    assert told["sae_sets"] == []
