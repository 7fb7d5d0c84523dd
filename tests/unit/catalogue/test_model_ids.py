"""One model, many names: each leads to the others."""

import pytest

from core.catalogue.catalogue import find_model, weights_location
from core.catalogue.directory import published_models
from core.catalogue.model_ids import base_of, names_of

PAIRS = [
    ("gpt2-small", "openai-community/gpt2"),
    ("gemma-2-2b", "google/gemma-2-2b"),
    ("gemma-2-2b-it", "google/gemma-2-2b-it"),
    ("gemma-3-1b", "google/gemma-3-1b-pt"),
    ("gemma-3-1b-it", "google/gemma-3-1b-it"),
    ("llama3.1-8b", "meta-llama/Llama-3.1-8B"),
    ("llama3.1-8b-it", "meta-llama/Llama-3.1-8B-Instruct"),
    ("qwen3-4b", "Qwen/Qwen3-4B"),
]


@pytest.mark.parametrize(("known", "hugging_face_id"), PAIRS)
def test_either_name_leads_to_both(known: str, hugging_face_id: str) -> None:
    names = names_of(known)
    assert names == names_of(hugging_face_id) == find_model(known)
    assert (names.id, names.weights) == (known, hugging_face_id)
    assert hugging_face_id in names.aliases
    assert known not in names.aliases


@pytest.mark.parametrize("spelling", ["gpt2", "gpt2-small", "openai-community/gpt2"])
def test_every_spelling_of_gpt2_is_one_model(spelling: str) -> None:
    names = names_of(spelling)
    assert names.id == "gpt2-small"
    assert {names.id, *names.aliases} == {"gpt2", "gpt2-small", "openai-community/gpt2"}


def test_every_alias_of_every_published_model_leads_back_to_it() -> None:
    for model in published_models():
        names = names_of(model)
        assert names.id == model
        assert all(names_of(alias) == names for alias in names.aliases)


def test_every_published_model_has_weights_on_hugging_face() -> None:
    assert [model for model in published_models() if "/" not in names_of(model).weights] == []


def test_no_two_published_models_share_a_name() -> None:
    names = [names_of(model) for model in published_models()]
    spellings = [spelling for name in names for spelling in (name.id, *name.aliases)]
    assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize("model", ["someone/their-model", "unheard-of"])
def test_a_model_that_nobody_listed_is_known_by_its_own_name_alone(model: str) -> None:
    names = find_model(model)
    assert (names.id, names.aliases, names.weights) == (model, (), model)
    assert weights_location(names.weights) == model


def test_a_local_folder_is_a_model_named_after_it(tmp_path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    names = find_model(str(folder))
    assert (names.id, names.aliases, names.weights) == ("my-model", (), str(folder))


def test_the_base_of_an_instruct_model() -> None:
    assert base_of("gemma-2-2b-it") == "gemma-2-2b"
    assert base_of("gemma-2-2b") is None
    assert base_of("it") is None
