"""Sources are found where they are said to be, and nothing is fetched that nobody asked for."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.catalogue.catalogue import SourceFilter, catalogue_rows, find_sources
from core.catalogue.description import Limits, ModelDescription, RunnerDescription
from core.catalogue.model_ids import names_of
from core.catalogue.sources import Folder, Published, Source, folder_sources
from core.engine.shape import ModelShape
from core.errors import InvalidRequest, NotFound
from tests.tiny_models import D_MODEL, D_SAE, GPT2_LAYERS, GPT2_SAE_REPO, random_sae, save_sae, save_sae_folder


@pytest.fixture
def fetched(hub: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that SAELens asks the hub for."""
    from sae_lens.loading import pretrained_sae_loaders

    files: list[str] = []
    download = pretrained_sae_loaders.hf_hub_download

    def recorded(repo_id: str, filename: str, **options: Any) -> str:
        files.append(f"{repo_id}/{filename}")
        return download(repo_id, filename, **options)

    monkeypatch.setattr(pretrained_sae_loaders, "hf_hub_download", recorded)
    return files


@pytest.fixture
def almost_empty_hub(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds the configuration of one SAE, without its weights, and nothing else."""
    from huggingface_hub import constants

    repo = f"models--{GPT2_SAE_REPO.replace('/', '--')}"
    whole = next(hub.rglob(repo))
    wanted = "blocks.1.hook_resid_pre/cfg.json"
    for path in (whole / "refs" / "main", next(whole.rglob(wanted))):
        copy = tmp_path / repo / path.relative_to(whole)
        copy.parent.mkdir(parents=True)
        shutil.copy(path, copy)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def ids(sources: list[Source]) -> list[str]:
    return [source.id for source in sources]


@pytest.mark.parametrize("model", ["gpt2-small", "gpt2", "openai-community/gpt2"])
def test_a_published_set_is_found_under_every_name_of_its_model(hub: Path, model: str) -> None:
    sources = find_sources(model, ["res-jb"])
    assert ids(sources) == [f"{layer}-res-jb" for layer in range(GPT2_LAYERS + 1)]
    for source in sources[:-1]:
        hook = f"blocks.{source.layer}.hook_resid_pre"
        assert source == Source(
            id=f"{source.layer}-res-jb",
            source_set="res-jb",
            layer=source.layer,
            origin=Published("gpt2-small-res-jb", hook),
            hook_name=hook,
            d_in=D_MODEL,
            d_sae=D_SAE,
            architecture="standard",
        )
    assert sources[-1].hook_name == "blocks.11.hook_resid_post"


def test_describing_a_filtered_set_fetches_the_configurations_of_what_is_left_and_nothing_more(
    fetched: list[str],
) -> None:
    sources = find_sources("gpt2-small", ["res-jb"], wanted=SourceFilter(include=("^1-", "^7-")))
    assert ids(sources) == ["1-res-jb", "7-res-jb"]
    assert fetched == [f"{GPT2_SAE_REPO}/blocks.{layer}.hook_resid_pre/cfg.json" for layer in (1, 7)]


def test_a_filtered_set_needs_nothing_of_the_others_in_the_cache(almost_empty_hub: Path) -> None:
    wanted = SourceFilter(include=("^1-",))
    assert ids(find_sources("gpt2-small", ["res-jb"], wanted=wanted)) == ["1-res-jb"]
    with pytest.raises(OSError, match="annot find the requested files"):
        find_sources("gpt2-small", ["res-jb"], wanted=SourceFilter(include=("^2-",)))


def test_a_set_that_nobody_named_is_not_fetched(fetched: list[str]) -> None:
    assert find_sources("gpt2-small", []) == []
    with pytest.raises(NotFound):
        find_sources("gpt2-small", ["no-such-set"])
    assert fetched == []


@pytest.mark.parametrize("model", ["gemma-2-2b", "google/gemma-2-2b", "gemma-2-2b-it", "google/gemma-2-2b-it"])
def test_an_instruct_model_is_described_with_the_sets_of_its_base(hub: Path, model: str) -> None:
    wanted = SourceFilter(include=("^20-",))
    sets = ["gemmascope-res-16k", "gemmascope-att-16k", "gemmascope-mlp-16k", "gemmascope-transcoder-16k"]
    residual, heads, mlp, transcoder = find_sources(model, sets, wanted=wanted)
    assert (residual.hook_name, residual.d_in, residual.d_sae) == ("blocks.20.hook_resid_post", 2304, 16384)
    assert (residual.architecture, transcoder.architecture) == ("jumprelu", "jumprelu_transcoder")
    assert (heads.hook_name, heads.d_in) == ("blocks.20.attn.hook_z", 2048)
    assert mlp.hook_name == "blocks.20.hook_mlp_out"
    assert transcoder.hook_name == "blocks.20.ln2.hook_normalized"
    assert [source.dfa for source in (residual, heads, mlp, transcoder)] == [False, True, False, False]
    assert residual.size_bytes("bfloat16") == pytest.approx(2 * 2 * 2304 * 16384, rel=0.01)


def test_an_unknown_set_is_not_found_and_the_hint_names_the_known_ones() -> None:
    with pytest.raises(NotFound) as refusal:
        find_sources("gpt2", ["res-jb", "res-nobody"])
    assert refusal.value.message == "gpt2-small has no source set 'res-nobody'."
    for known in ("res-jb", "att-kk", "mlp_32k-oai"):
        assert known in (refusal.value.hint or "")


def test_an_unknown_model_has_no_sets_but_may_have_local_ones(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as refusal:
        find_sources("someone/their-model", ["mine"])
    assert "Known sets: none" in (refusal.value.hint or "")
    assert "local folders" in (refusal.value.hint or "")
    save_sae_folder(tmp_path, "mine", {0: "blocks.0.hook_resid_post"})
    assert ids(find_sources("someone/their-model", ["mine"], {"mine": str(tmp_path)})) == ["0-mine"]


def test_sets_come_in_the_order_named_and_sources_in_that_of_the_catalogue(hub: Path, tmp_path: Path) -> None:
    save_sae_folder(tmp_path, "mine", {layer: f"blocks.{layer}.hook_resid_post" for layer in (11, 2, 0)})
    wanted = SourceFilter(exclude=(r"^\d\d-res",))
    found = find_sources("gpt2-small", ["mine", "res-jb"], {"mine": str(tmp_path)}, wanted)
    assert ids(found) == ["0-mine", "2-mine", "11-mine", *(f"{layer}-res-jb" for layer in range(10))]


def test_a_local_folder_takes_the_place_of_a_published_set_of_the_same_name(hub: Path, tmp_path: Path) -> None:
    save_sae_folder(tmp_path, "res-jb", {3: "blocks.3.hook_mlp_out"})
    (source,) = find_sources("gpt2-small", ["res-jb"], {"res-jb": str(tmp_path)})
    assert (source.origin, source.hook_name) == (Folder(str(tmp_path / "3-res-jb")), "blocks.3.hook_mlp_out")


@pytest.mark.parametrize(
    ("include", "exclude", "layers"),
    [
        (("^1-",), (), [1]),
        (("^1",), (), [1, 10, 11, 12]),
        (("1-",), (), [1, 11]),
        (("^1-", "^2-"), ("^2",), [1]),
        ((), (r"^\d\d-",), list(range(10))),
        (("-res-jb$",), ("^(?!5)",), [5]),
        (("^res",), (), []),
        (("^3-",), ("^3-",), []),
    ],
)
def test_filters_search_the_source_id(
    hub: Path, include: tuple[str, ...], exclude: tuple[str, ...], layers: list[int]
) -> None:
    found = find_sources("gpt2-small", ["res-jb"], wanted=SourceFilter(include, exclude))
    assert [source.layer for source in found] == layers


patterns = st.lists(st.sampled_from(["^1-", "1", "jb", "^res", r"\d{2}", "-res-", "$"]), max_size=3).map(tuple)


@given(include=patterns, exclude=patterns, source_id=st.from_regex(r"[0-9]{1,2}-(res|att)-[a-z]{2}", fullmatch=True))
def test_a_source_passes_when_it_is_included_and_not_excluded(
    include: tuple[str, ...], exclude: tuple[str, ...], source_id: str
) -> None:
    included = not include or any(re.search(pattern, source_id) for pattern in include)
    excluded = any(re.search(pattern, source_id) for pattern in exclude)
    assert SourceFilter(include, exclude).keeps(source_id) == (included and not excluded)


def test_a_folder_offers_what_is_named_like_a_source_of_the_set(tmp_path: Path) -> None:
    save_sae_folder(tmp_path, "mine", {4: "blocks.4.hook_resid_post"})
    save_sae_folder(tmp_path, "other", {5: "blocks.5.hook_resid_post"})
    (tmp_path / "6-mine").mkdir()  # no configuration in it
    (tmp_path / "x-mine").mkdir()
    (tmp_path / "7-mine").write_text("a file")
    assert ids(folder_sources("mine", tmp_path)) == ["4-mine"]


@pytest.mark.parametrize("folder", ["nothing", "missing", "wrong"])
def test_a_folder_without_an_sae_of_the_set_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "nothing").mkdir()
    save_sae_folder(tmp_path / "wrong", "other", {5: "blocks.5.hook_resid_post"})
    with pytest.raises(InvalidRequest, match="The folder of source set 'mine' holds no SAE") as refusal:
        find_sources("gpt2-small", ["mine"], {"mine": str(tmp_path / folder)})
    assert "'0-mine'" in (refusal.value.hint or "")


def test_a_configuration_from_before_saelens_6_is_understood(tmp_path: Path) -> None:
    folder = tmp_path / "3-old"
    folder.mkdir()
    old = {"hook_point": "blocks.3.hook_resid_pre", "d_in": 8, "d_sae": 16, "dtype": "float32", "device": "cpu"}
    (folder / "cfg.json").write_text(json.dumps(old))
    (source,) = folder_sources("old", tmp_path)
    assert (source.hook_name, source.d_in, source.d_sae) == ("blocks.3.hook_resid_pre", 8, 16)
    assert source.architecture == "standard"


@pytest.mark.parametrize(
    ("name", "hook", "offered"),
    [
        ("1-att-kk", "blocks.1.attn.hook_z", True),
        ("1-gemmascope-att-16k", "blocks.1.attn.hook_z", True),
        ("1-att_32k-oai", "blocks.1.attn.hook_z", True),
        ("1-att_32k-oai", "blocks.1.hook_attn_out", False),  # as wide as hook_z in GPT-2, but something else
        ("1-res-jb", "blocks.1.attn.hook_z", False),
        ("1-flattery-jb", "blocks.1.attn.hook_z", False),
    ],
)
def test_attribution_is_offered_for_attention_sets_on_hook_z(
    tmp_path: Path, name: str, hook: str, offered: bool
) -> None:
    save_sae(tmp_path / name, random_sae("standard", D_MODEL, D_SAE, hook, 1))
    (source,) = folder_sources(name.split("-", 1)[1], tmp_path)
    assert source.dfa is offered


def test_the_catalogue_lists_every_published_model_with_its_sets_and_the_demo() -> None:
    rows = {names.id: sets for names, sets in catalogue_rows()}
    assert next(iter(rows)) == "rayscope-demo"
    assert "res-jb" in rows["gpt2-small"]
    assert "gemmascope-res-16k" in rows["gemma-2-2b"]
    assert len(rows) > 20


@pytest.fixture
def described(hub: Path, tmp_path: Path) -> ModelDescription:
    save_sae_folder(tmp_path, "mine", {1: "blocks.1.hook_resid_post", 3: "blocks.3.hook_resid_post"})
    published = find_sources("gpt2-small", ["res-jb"], wanted=SourceFilter(include=("^[0-2]-",)))
    local = find_sources("gpt2-small", ["mine"], {"mine": str(tmp_path)})
    return ModelDescription(
        names=names_of("gpt2-small"),
        weights="openai-community/gpt2",
        revision=None,
        dtype="float32",
        device="cpu",
        shape=ModelShape(12, 4, 4, 8, 32, 400, 256),
        limits=Limits(100, 200, 4, 100),
        runners=(RunnerDescription("First", tuple(published), 8), RunnerDescription("Second", tuple(local), 8)),
    )


def test_a_description_knows_its_sources_sets_and_runners(described: ModelDescription) -> None:
    assert list(described.sources()) == ["0-res-jb", "1-res-jb", "2-res-jb", "1-mine", "3-mine"]
    assert {name: ids(list(sources)) for name, sources in described.source_sets().items()} == {
        "res-jb": ["0-res-jb", "1-res-jb", "2-res-jb"],
        "mine": ["1-mine", "3-mine"],
    }
    assert described.source("1-mine").hook_name == "blocks.1.hook_resid_post"
    assert described.source_set("mine") == described.runners[1].sources
    assert [described.runner_of(name) for name in ("2-res-jb", "3-mine")] == ["First", "Second"]


def test_what_a_description_does_not_serve_is_not_found_and_the_hint_says_what_is(
    described: ModelDescription,
) -> None:
    for look in (
        lambda: described.source("9-res-jb"),
        lambda: described.source_set("res-nobody"),
        lambda: described.runner_of("9-res-jb"),
    ):
        with pytest.raises(NotFound):
            look()
    with pytest.raises(NotFound) as refusal:
        described.source("9-res-jb")
    expected = "Served source sets: res-jb (0-res-jb to 2-res-jb), mine (1-mine to 3-mine)."
    assert refusal.value.hint == expected
