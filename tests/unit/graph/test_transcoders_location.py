"""Names lead to files: local folders, hub repositories and shortcuts; and what is wrong with a set is said clearly."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from safetensors.torch import load_file, save_file

from core.demo import ARTEFACTS
from core.errors import InvalidRequest, NotFound, Unavailable
from core.graph.transcoders.location import locate
from core.graph.transcoders.opening import open_transcoders
from core.graph.transcoders.place import Place
from core.graph.transcoders.publication import publication_of
from core.graph.transcoders.stored import StoredTranscoders
from tests.tiny_models import offline_hub

from .folders import COMMIT, read, repository, save_clt, save_plt

L, D, F = 2, 8, 32


def opened(name: str | Path, **options: Any) -> StoredTranscoders:
    defaults: dict[str, Any] = {"n_layers": L, "d_model": D, "device": "cpu", "dtype": torch.float32}
    return open_transcoders(str(name), **(defaults | {"lazy_encoder": True, "budget_bytes": 2**20} | options))


def plt(folder: Path, **options: Any) -> Path:
    return save_plt(folder, **({"n_layers": L, "d_model": D, "n_features": F} | options))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """The folder of an empty Hugging Face cache that every library uses, offline."""
    with offline_hub(tmp_path / "home"):
        yield tmp_path / "home" / "hub"


def reconfigure(folder: Path, **changes: Any) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text()) | changes
    (folder / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in config.items() if v is not None}))


def check_rows(transcoders: StoredTranscoders, folder: Path) -> None:
    indices = torch.arange(F)
    for layer in range(L):
        truth = read(folder, layer)
        assert torch.equal(transcoders.encoder_rows(layer, indices).double(), truth["W_enc"])
        decoder = transcoders.decoder_rows(layer, indices).double()
        assert torch.equal(decoder, truth["W_dec"].reshape(F, -1, D))


def test_a_local_folder_opens_by_absolute_and_by_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = plt(tmp_path / "sets" / "mine")
    monkeypatch.chdir(tmp_path)
    for name in (str(folder), "sets/mine", "./sets/mine", "sets/mine/config.yaml", str(folder / "config.yaml")):
        transcoders = opened(name)
        assert transcoders.shape.name == "mine"
        check_rows(transcoders, folder)


def test_a_local_folder_s_scan_is_its_name(tmp_path: Path) -> None:
    assert opened(plt(tmp_path / "x", scan="my-set")).shape.name == "my-set"


@pytest.mark.parametrize(
    ("hook", "site"),
    [("mlp.hook_in", "mlp_in"), ("hook_resid_mid", "resid_mid"), ("ln2.hook_normalized", "mlp_normalized")],
)
def test_input_hooks_have_their_circuit_tracer_meaning(hook: str, site: str, tmp_path: Path) -> None:
    assert opened(plt(tmp_path, reads=hook)).shape.reads == site


@pytest.mark.parametrize(("hook", "site"), [("mlp.hook_out", "mlp_out"), ("hook_mlp_out", "mlp_contribution")])
def test_output_hooks_have_their_circuit_tracer_meaning(hook: str, site: str, tmp_path: Path) -> None:
    assert opened(plt(tmp_path, writes=hook)).shape.writes == site


@pytest.mark.parametrize("side", ["reads", "writes"])
def test_a_hook_that_can_not_be_attributed_is_refused_with_those_that_can(side: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"attn\.hook_q") as refusal:
        opened(plt(tmp_path, **{side: "attn.hook_q"}))
    assert "hook_" in (refusal.value.hint or "")


def test_locating_a_set_reads_no_weights(tmp_path: Path, cache: Path) -> None:
    folder = plt(tmp_path / "x")
    (repository(cache, "owner/set") / "config.yaml").write_text((folder / "config.yaml").read_text())
    for file in folder.glob("*.safetensors"):
        file.unlink()
    assert locate(str(folder)).layer_files(1) == (Place(str(folder / "layer_1.safetensors")),)
    assert locate("owner/set").layer_files(1) == (Place("layer_1.safetensors", "owner/set"),)
    assert locate("plt-demo").layer_files(0) == (Place(str(ARTEFACTS / "plt-demo" / "layer_0.safetensors")),)


@pytest.mark.parametrize("repo", ["mwhanna/qwen3-4b-transcoders", "mntss/clt-gemma-2-2b-2.5M"])
def test_a_repository_opens_from_a_warm_cache_without_network(repo: str, cache: Path) -> None:
    snapshot = repository(cache, repo)
    save = save_clt if "clt" in repo else save_plt
    save(snapshot, n_layers=L, d_model=D, n_features=F, scan="ignored")
    transcoders = opened(repo)
    assert (transcoders.shape.name, transcoders.shape.cross_layer) == (repo, "clt" in repo)
    check_rows(transcoders, snapshot)


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("owner/set//wide/small@v2", "owner/set//wide/small@v2"),
        ("owner/set/wide/small@v2", "owner/set//wide/small@v2"),
        ("owner/set@v2", "owner/set@v2"),
    ],
)
def test_a_folder_and_a_revision_of_a_repository_can_be_named(name: str, called: str, cache: Path) -> None:
    snapshot = repository(cache, "owner/set", revision="v2")
    folder = plt(snapshot / "wide" / "small" if "wide" in name else snapshot)
    transcoders = opened(name)
    assert transcoders.shape.name == called
    check_rows(transcoders, folder)


def test_only_the_files_of_the_set_are_needed(cache: Path) -> None:
    snapshot = plt(repository(cache, "owner/set"))
    assert {path.name for path in snapshot.iterdir()} == {"config.yaml", "layer_0.safetensors", "layer_1.safetensors"}
    opened("owner/set")


def test_the_shortcut_gemma_reads_gemma_scope_s_npz_files_where_its_list_says(cache: Path, tmp_path: Path) -> None:
    import numpy as np

    truth = plt(tmp_path / "truth", activation="jumprelu", reads="ln2.hook_normalized", writes="hook_mlp_out")
    google = repository(cache, "google/gemma-scope-2b-pt-transcoders")
    listed: list[str] = []
    for layer in range(L):
        arrays = {name: tensor.float().numpy() for name, tensor in read(truth, layer).items()}
        arrays["W_enc"] = arrays["W_enc"].T
        (google / f"layer_{layer}" / "average").mkdir(parents=True)
        np.savez(google / f"layer_{layer}" / "average" / "params.npz", **arrays)
        listed.append(f"hf://google/gemma-scope-2b-pt-transcoders/layer_{layer}/average/params.npz?revision=main")
    shutil.copy(truth / "config.yaml", repository(cache, "mntss/gemma-scope-transcoders"))
    reconfigure(cache / "models--mntss--gemma-scope-transcoders" / "snapshots" / COMMIT, transcoders=listed)
    for lazy in (False, True):
        transcoders = opened("gemma", lazy_encoder=lazy, budget_bytes=3000)
        assert transcoders.shape.reads == "mlp_normalized"
        check_rows(transcoders, truth)
        same = opened(truth, lazy_encoder=lazy)
        x = torch.randn(5, D, generator=torch.Generator().manual_seed(0))
        for layer in range(L):
            one, other = transcoders.encode(layer, x), same.encode(layer, x)
            assert torch.equal(one.index, other.index)
            torch.testing.assert_close(one.value, other.value)
        assert transcoders.held_bytes <= 3000


def test_the_shortcut_llama_is_a_repository(cache: Path) -> None:
    plt(repository(cache, "mntss/transcoder-Llama-3.2-1B"))
    assert opened("llama").shape.name == "mntss/transcoder-Llama-3.2-1B"


@pytest.mark.parametrize("cross_layer", [False, True], ids=["plt", "clt"])
def test_gemma_scope_2_files_are_read_by_their_own_names_and_orientations(cross_layer: bool, tmp_path: Path) -> None:
    save = save_clt if cross_layer else save_plt
    truth = save(tmp_path / "truth", n_layers=L, d_model=D, n_features=F, activation="jumprelu")
    folder = tmp_path / "set"
    folder.mkdir()
    skips = [torch.randn(D, D, generator=torch.Generator().manual_seed(layer)) for layer in range(L)]
    for layer in range(L):
        plain = {name: tensor.float() for name, tensor in read(truth, layer).items()}
        decoder = plain["W_dec"]
        if cross_layer:  # slots for all layers, those before its own of no meaning
            decoder = torch.cat([torch.full((F, layer, D), 7.0), decoder], dim=1)
        tensors = {
            "w_enc": plain["W_enc"].T.contiguous(),
            "w_dec": decoder.contiguous(),
            "b_enc": plain["b_enc"],
            "b_dec": plain["b_dec"],
            "threshold": plain["threshold"],
            "affine_skip_connection": skips[layer],
        }
        save_file(tensors, folder / f"params_{layer}.safetensors")
    shutil.copy(truth / "config.yaml", folder)
    reconfigure(folder, transcoders=[f"params_{layer}.safetensors" for layer in range(L)])
    transcoders, x = opened(folder), torch.randn(4, D, generator=torch.Generator().manual_seed(9))
    check_rows(transcoders, truth)
    for layer in range(L):
        assert torch.equal(transcoders.encode(layer, x).index, opened(truth).encode(layer, x).index)
        skip = transcoders.skip(layer)
        assert skip is not None
        torch.testing.assert_close(x @ skip.T, x @ skips[layer])


def test_a_clt_s_skip_matrix_multiplies_from_the_right_as_in_circuit_tracer(tmp_path: Path) -> None:
    save_clt(tmp_path, n_layers=L, d_model=D, n_features=F)
    skips = [torch.randn(D, D, generator=torch.Generator().manual_seed(layer)) for layer in range(L)]
    for layer in range(L):
        file = tmp_path / f"W_enc_{layer}.safetensors"
        save_file(load_file(file) | {f"W_skip_{layer}": skips[layer]}, file)
    transcoders, x = opened(tmp_path), torch.randn(4, D, generator=torch.Generator().manual_seed(9))
    for layer in range(L):
        skip = transcoders.skip(layer)
        assert skip is not None
        torch.testing.assert_close(x @ skip.T, x @ skips[layer])


# What is wrong with a set.


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "../nowhere"])
def test_a_folder_that_is_not_there_is_not_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound, match="There is no folder"):
        locate(name)


def test_a_folder_without_config_is_not_found_and_the_hint_says_what_is_expected(tmp_path: Path) -> None:
    folder = plt(tmp_path / "x")
    (folder / "config.yaml").unlink()
    with pytest.raises(NotFound, match=r"There is no config\.yaml in x") as refusal:
        locate(str(folder))
    assert "cfg.json" in (refusal.value.hint or "")


def test_a_repository_that_is_not_in_the_cache_is_unavailable_offline(cache: Path) -> None:
    with pytest.raises(Unavailable, match=r"config\.yaml of owner/none is not in the Hugging Face cache"):
        locate("owner/none")


def test_a_layer_that_is_not_in_the_cache_is_unavailable_offline(cache: Path) -> None:
    (plt(repository(cache, "owner/set")) / "layer_1.safetensors").unlink()
    with pytest.raises(Unavailable, match=r"layer_1\.safetensors of owner/set"):
        opened("owner/set")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(EntryNotFoundError, NotFound), (HFValidationError, NotFound), (ConnectionError, Unavailable)],
)
def test_what_the_hub_answers_is_told(
    raised: type[Exception], expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise raised("no")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(expected, match=r"config\.yaml (in|of) owner/none"):
        locate("owner/none")


def test_a_missing_layer_is_named(tmp_path: Path) -> None:
    folder = plt(tmp_path / "x")
    (folder / "layer_1.safetensors").unlink()
    with pytest.raises(NotFound, match=r"There is no layer_1\.safetensors in x") as refusal:
        opened(folder)
    assert "layer_0.safetensors" in (refusal.value.hint or "")


def test_a_set_for_a_deeper_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="has a transcoder for layer 2, but the model's last is 1"):
        opened(plt(tmp_path, n_layers=3))


def test_a_list_for_another_depth_is_refused(tmp_path: Path) -> None:
    reconfigure(plt(tmp_path), transcoders=["layer_0.safetensors"])
    with pytest.raises(InvalidRequest, match="transcoders for 1 layers, but the model has 2"):
        opened(tmp_path)


def test_a_cross_layer_set_for_another_depth_is_refused(tmp_path: Path) -> None:
    save_clt(tmp_path, n_layers=4, d_model=D, n_features=F)
    for file in [*tmp_path.glob("W_*_2.safetensors"), *tmp_path.glob("W_*_3.safetensors")]:
        file.unlink()
    with pytest.raises(InvalidRequest, match=r"decoder of layer 0 in .* has shape \[32, 4, 8\].*needs \[32, 2, 8\]"):
        opened(tmp_path)


def test_another_width_than_the_model_s_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"encoder of layer 0 .* has shape \[32, 8\], but .* needs \[32, 16\]"):
        opened(plt(tmp_path), d_model=16)


def test_layers_of_different_widths_are_refused(tmp_path: Path) -> None:
    plt(tmp_path / "a")
    plt(tmp_path / "b", n_features=2 * F)
    shutil.copy(tmp_path / "b" / "layer_1.safetensors", tmp_path / "a")
    with pytest.raises(InvalidRequest, match="differ in width: 32, 64 features"):
        opened(tmp_path / "a")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    file = plt(tmp_path) / "layer_1.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if name != "b_enc"}, file)
    with pytest.raises(InvalidRequest, match=r"layer_1\.safetensors has no encoder bias"):
        opened(tmp_path)


def test_a_tensor_of_an_unknown_architecture_is_refused_and_not_left_out(tmp_path: Path) -> None:
    file = plt(tmp_path) / "layer_0.safetensors"
    save_file(load_file(file) | {"r_mag": torch.zeros(F)}, file)
    with pytest.raises(InvalidRequest, match="holds a tensor 'r_mag'"):
        opened(tmp_path)


def test_a_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    folder = plt(tmp_path / "x")
    for file in folder.glob("*.safetensors"):
        torch.save(load_file(file), file.with_suffix(".pt"))
        file.unlink()
    with pytest.raises(InvalidRequest, match=r"x has only pickles, such as layer_0\.pt"):
        opened(folder)


def test_a_listed_pickle_is_refused(tmp_path: Path) -> None:
    folder = plt(tmp_path)
    (folder / "layer_0.safetensors").rename(folder / "layer_0.pt")
    reconfigure(folder, transcoders=["layer_0.pt", "layer_1.safetensors"])
    with pytest.raises(InvalidRequest, match=r"layer_0\.pt is a pickle"):
        opened(folder)


@pytest.mark.parametrize(
    "entry", ["/etc/passwd", "../x.safetensors", "hf://google", "hf://google/x", {"filepath": "x"}]
)
def test_a_list_may_only_name_files_of_the_hub_or_of_its_own_folder(entry: Any, tmp_path: Path) -> None:
    reconfigure(plt(tmp_path), transcoders=[entry, "layer_1.safetensors"])
    with pytest.raises(InvalidRequest):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_kind": "lorsa"}, "model_kind 'lorsa'"),
        ({"model_kind": None}, "model_kind None"),
        ({"feature_input_hook": None}, "read at 'None'"),
        ({"activation": "gelu"}, "activation 'gelu'"),
        ({"activation": "topk"}, "its k is None"),
        ({"activation": "topk", "k": 0}, "its k is 0"),
        ({"activation": "topk", "k": F + 1}, "k 33, but has 32 features"),
    ],
)
def test_a_config_that_can_not_be_followed_says_where(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    reconfigure(plt(tmp_path), **changes)
    with pytest.raises(InvalidRequest, match=message):
        opened(tmp_path)


@pytest.mark.parametrize("text", ["- a list", "{", "", "\xff\xfe"])
def test_a_config_that_is_no_yaml_mapping_is_refused(text: str, tmp_path: Path) -> None:
    (plt(tmp_path) / "config.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidRequest, match=r"The config\.yaml"):
        opened(tmp_path)


def test_topk_and_thresholds_contradict_each_other(tmp_path: Path) -> None:
    reconfigure(plt(tmp_path, activation="jumprelu"), activation="topk", k=4)
    with pytest.raises(InvalidRequest, match="says topk, but has thresholds"):
        opened(tmp_path)


def test_messages_name_no_path_of_this_machine(tmp_path: Path) -> None:
    folder = plt(tmp_path / "x")
    (folder / "layer_1.safetensors").unlink()
    for name, expected in ((str(folder), NotFound), (str(plt(tmp_path / "y", reads="nothing")), InvalidRequest)):
        with pytest.raises(expected) as refusal:
            opened(name)
        assert str(tmp_path) not in refusal.value.text


# What is publicly known about a set.


@pytest.mark.parametrize(
    ("repo", "name", "pages"),
    [
        (
            "mntss/gemma-scope-transcoders",
            "gemma",
            ["gemma-2-2b/gemmascope-transcoder-16k", "google/gemma-scope-2b-pt"],
        ),
        ("mwhanna/qwen3-4b-transcoders", "mwhanna/qwen3-4b-transcoders", ["qwen3-4b/transcoder-hp", "mwhanna/qwen3"]),
        ("mntss/clt-gemma-2-2b-2.5M", "mntss/clt-gemma-2-2b-2.5M@main", ["gemma-2-2b/clt-hp", "mntss/clt-gemma"]),
        ("some/set", "some/set", ["https://huggingface.co/some/set"]),
    ],
)
def test_published_sets_name_their_pages(repo: str, name: str, pages: list[str], cache: Path) -> None:
    plt(repository(cache, repo))
    urls = publication_of(locate(name)).source_urls
    assert len(urls) == len(pages)
    assert all(page in url for page, url in zip(pages, urls, strict=True))


def test_a_local_set_has_no_pages(tmp_path: Path) -> None:
    assert publication_of(locate(str(plt(tmp_path)))).source_urls == ()
    assert publication_of(locate("plt-demo")).source_urls == ()
