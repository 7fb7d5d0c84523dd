"""The directory read from the data file agrees with SAELens' own reading of it."""

import re

import pytest

from core.catalogue.directory import published_models, published_sets


def test_it_holds_exactly_what_saelens_lists_with_a_source_id() -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    listed = {
        (release, sae_id, neuronpedia_id)
        for release, lookup in get_pretrained_saes_directory().items()
        for sae_id, neuronpedia_id in lookup.neuronpedia_id.items()
        if neuronpedia_id is not None and re.match(r"[^/]+/\d+-", neuronpedia_id)
    }
    found = {
        (sae.release, sae.sae_id, f"{sae.model}/{sae.source}")
        for sets in published_models().values()
        for saes in sets.values()
        for sae in saes
    }
    assert found == listed
    assert len(found) > 2000


def test_a_source_is_its_layer_and_its_set() -> None:
    for model, sets in published_models().items():
        for source_set, saes in sets.items():
            for sae in saes:
                assert sae.model == model
                assert sae.source == f"{sae.layer}-{source_set}"


def test_no_source_is_published_twice() -> None:
    for sets in published_models().values():
        sources = [sae.source for saes in sets.values() for sae in saes]
        assert len(sources) == len(set(sources))


def test_sets_keep_the_order_of_the_directory() -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    for release in ("gpt2-small-res-jb", "gemma-scope-2b-pt-res-canonical", "llama_scope_lxr_8x"):
        lookup = get_pretrained_saes_directory()[release]
        ids = [name for name in lookup.neuronpedia_id.values() if name is not None]
        model, source_set = ids[0].split("/")[0], ids[0].split("-", ids[0].split("/")[0].count("-") + 1)[-1]
        of_release = [sae for sae in published_sets(model)[source_set] if sae.release == release]
        wanted = [name.split("/")[1] for name in ids if name.split("/")[1].split("-", 1)[1] == source_set]
        assert [sae.source for sae in of_release] == wanted
        assert len(wanted) > 10


@pytest.mark.parametrize("model", ["gemma-2-2b-it", "gemma-3-12b-it", "qwen3-4b-it"])
def test_an_instruct_model_without_saes_borrows_those_of_its_base(model: str) -> None:
    assert model not in published_models()
    assert published_sets(model) == published_models()[model.removesuffix("-it")]


@pytest.mark.parametrize("model", ["gemma-2-9b-it", "gemma-3-1b-it"])
def test_an_instruct_model_with_saes_of_its_own_keeps_to_them(model: str) -> None:
    assert published_sets(model) == published_models()[model]
    assert published_sets(model) != published_models()[model.removesuffix("-it")]


def test_a_model_that_nobody_published_saes_for_has_no_sets() -> None:
    assert published_sets("unheard-of") == published_sets("unheard-of-it") == published_sets("") == {}
