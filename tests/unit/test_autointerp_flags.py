"""What the flags of `rayscope autointerp run` ask for."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.autointerp_flags import RunFlags, asked_model, job_of, lasting, making_of, sources_of
from core.autointerp.caching.corpus import DatasetTexts, DemoTexts, FileTexts
from core.autointerp.jobs.choices import AskedModel, CacheChoice
from core.autointerp.jobs.specification import JobSpec
from core.demo import ARTEFACTS
from core.demo.oracle import ORACLE_MODEL
from core.errors import InvalidRequest, NotFound

DEMO = RunFlags("rayscope-demo", "res-demo")
GPT2 = RunFlags("gpt2-small", "res-jb", explainer_model="some/model")


def job(flags: RunFlags) -> JobSpec:
    return job_of(flags, sources_of(flags), CacheChoice("cache", making_of(flags)))


@pytest.mark.parametrize("hookpoint", ["2-res-demo", "2", "layers.2", "model.layers.2.mlp", "blocks.2.hook_resid_post"])
def test_a_hook_point_is_a_source_a_layer_or_a_name_with_the_layer(hookpoint: str) -> None:
    flags = replace(DEMO, hookpoints=(hookpoint,))
    assert [source.id for source in sources_of(flags)] == ["2-res-demo"]


@pytest.mark.parametrize("hookpoint", ["12", "layers.9", "blocks.2.hook_resid_pre", "nowhere"])
def test_a_hook_point_that_the_set_has_not_is_refused_with_those_that_it_has(hookpoint: str) -> None:
    with pytest.raises(NotFound, match="nothing at hook point") as error:
        sources_of(replace(DEMO, hookpoints=("1", hookpoint)))
    assert "0-res-demo, 1-res-demo" in str(error.value.hint)


def test_without_hook_points_it_is_the_whole_set() -> None:
    assert [source.layer for source in sources_of(DEMO)] == [0, 1, 2, 3]


def test_a_set_in_a_folder_bears_the_folders_name() -> None:
    flags = replace(DEMO, sae_set=str(ARTEFACTS / "att-demo"))
    assert job(flags).sources == ("0-att-demo", "1-att-demo", "2-att-demo", "3-att-demo")
    assert making_of(flags).set_folders == {"att-demo": str(ARTEFACTS / "att-demo")}


def test_the_demo_needs_no_key_no_data_set_and_not_many_tokens() -> None:
    assert job(DEMO).asked == AskedModel(ORACLE_MODEL, "local")
    making = making_of(DEMO)
    assert isinstance(making.texts, DemoTexts)
    assert making.n_tokens == 100_000


def test_other_models_have_delphis_corpus_and_size() -> None:
    making = making_of(GPT2)
    assert making.texts == DatasetTexts("EleutherAI/SmolLM2-135M-10B", "train[:1%]", None, "text")
    assert making.n_tokens == 10_000_000
    assert making.threshold == 0


def test_another_model_needs_somebody_to_explain_it() -> None:
    with pytest.raises(InvalidRequest, match="No model to explain with"):
        asked_model(replace(GPT2, explainer_model=None), None)


@pytest.mark.parametrize(
    ("provider", "base_url", "expected"),
    [
        (None, None, AskedModel("m", "openrouter", None, "configured")),
        ("openrouter", None, AskedModel("m", "openrouter", None, "configured")),
        ("local", None, AskedModel("m", "local")),
        ("offline", None, AskedModel("m", "local")),
        ("local", "http://localhost:8000/v1", AskedModel("m", "openrouter", "http://localhost:8000/v1", "configured")),
        (None, "https://a.example/v1", AskedModel("m", "openrouter", "https://a.example/v1", "configured")),
    ],
)
def test_who_is_asked_where(provider: str | None, base_url: str | None, expected: AskedModel) -> None:
    assert asked_model(replace(DEMO, explainer_provider=provider, base_url=base_url), "m") == expected


def test_a_provider_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="magic"):
        asked_model(replace(DEMO, explainer_provider="magic"), "m")


@pytest.mark.parametrize(
    ("said", "count", "kind", "found"),
    [
        (None, 3, "random", 3),
        ("first", 3, "all", 3),
        ("first", None, "all", 10),
        ("random", None, "all", 10),
        ("2-4", None, "range", 3),
        ("2-4", 2, "range", 2),
        ("1,5,8", None, "list", 3),
    ],
)
def test_which_features(said: str | None, count: int | None, kind: str, found: int) -> None:
    latents = job(replace(DEMO, latents=said, max_latents=count)).latents
    assert latents.kind == kind
    assert len(latents.of("1-res-demo", 10, range(10))) == found


def test_a_range_has_its_last_feature_too() -> None:
    assert job(replace(DEMO, latents="2-4")).latents.of("1-res-demo", 10, range(10)) == [2, 3, 4]


@pytest.mark.parametrize(
    "changes",
    [
        {"latents": "some"},
        {"train_type": "best"},
        {"non_activating_source": "FAISS"},
        {"sampler": "mine"},
        {"ratio_top": 2.0},
        {"pipeline_num_proc": 0},
        {"explainers": ("none",)},
    ],
)
def test_a_flag_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        job(replace(DEMO, **changes))


def test_a_scorer_that_nobody_knows_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(NotFound, match="no scorer luck"):
        job(replace(DEMO, scorers=("luck",)))


def test_delphis_names_of_scorers_and_explainers_are_known() -> None:
    spec = job(replace(DEMO, scorers=("RecallScorer", "fuzz"), explainers=("DefaultExplainer",), fuzz_type="active"))
    assert [step.type for step in spec.scorers] == ["detection", "fuzz-active"]
    assert [step.type for step in spec.explainers] == ["default"]


def test_a_scorer_is_told_what_it_takes_and_nothing_else() -> None:
    flags = replace(DEMO, scorers=("fuzz", "recall-alt"), num_examples_per_scorer_prompt=7, log_probs=True)
    fuzz, recall = job(flags).scorers
    assert fuzz.parameters == {"examples_per_prompt": 7, "log_probabilities": True}
    assert recall.parameters == {}


def test_baselines_are_asked_for_by_name() -> None:
    assert job(replace(DEMO, random=True, random_explanations=True)).baselines == ("random-explanation", "random-sae")


def test_a_local_corpus_takes_the_place_of_the_demos() -> None:
    assert making_of(replace(DEMO, texts=("a.txt",))).texts == FileTexts(("a.txt",), "text")
    assert making_of(replace(DEMO, dataset_repo="x/y")).texts == DatasetTexts("x/y", "train[:1%]", None, "text")


def test_what_may_change_when_a_run_is_gone_on_with_is_speed_and_money_alone() -> None:
    spec = job(DEMO)
    assert lasting(job(replace(DEMO, pipeline_num_proc=3, budget_usd=1.0))) == lasting(spec)
    for other in ({"seed": 1}, {"scorers": ("fuzz",)}, {"force": True}, {"n_tokens": 50_000}, {"max_latents": 4}):
        assert lasting(job(replace(DEMO, **other))) != lasting(spec)


def test_a_path_that_is_no_folder_is_a_set_that_the_model_has_not(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no source set"):
        sources_of(replace(DEMO, sae_set=str(tmp_path / "nowhere")))
