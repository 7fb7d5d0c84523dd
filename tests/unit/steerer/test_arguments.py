"""A Steerer's arguments: what they reserve, what they start the engine with, what the environment may say."""

import pytest
from pydantic import ValidationError

from cluster.steerer_arguments import SteererArgs
from core.errors import InvalidRequest
from core.steerer.settings import EngineSettings, engine_arguments


def args(**given: object) -> SteererArgs:
    return SteererArgs.model_validate(given)


def test_a_misspelt_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="tensor_parallel"):
        args(tensor_parallel=2)


def test_one_process_group_reserves_its_gpus_on_one_node() -> None:
    assert args(tensor_parallel_size=4).resources("cuda")["ray_actor_options"]["num_gpus"] == 4
    assert args(tensor_parallel_size=4).resources("cpu")["ray_actor_options"]["num_gpus"] == 0


def test_workers_that_ray_starts_get_a_bundle_each() -> None:
    options = args(tensor_parallel_size=2, executor="ray").resources("cuda")
    assert options["placement_group_bundles"] == [{"CPU": 1.0}, {"GPU": 1.0}, {"GPU": 1.0}]
    assert options["placement_group_strategy"] == "STRICT_PACK"
    assert "num_gpus" not in options["ray_actor_options"]


def test_settings_carry_every_argument_of_the_engine() -> None:
    given = args(tensor_parallel_size=2, max_model_len=512, sites=[0, 3], engine={"block_size": 32})
    settings = given.settings("repo", "main", "bfloat16")
    made = engine_arguments(settings, (0, 3), on_gpu=True)
    assert made["model"] == "repo"
    assert made["revision"] == "main"
    assert made["dtype"] == "bfloat16"
    assert made["tensor_parallel_size"] == 2
    assert made["max_model_len"] == 512
    assert made["block_size"] == 32
    assert made["additional_config"]["rayscope"]["sites"] == [0, 3]
    assert made["distributed_executor_backend"] == "mp"


def test_decoding_is_captured_on_a_gpu_and_nothing_on_a_cpu() -> None:
    settings = EngineSettings("repo")
    on_gpu = engine_arguments(settings, (0,), on_gpu=True)
    assert on_gpu["compilation_config"] == {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}
    assert engine_arguments(settings, (0,), on_gpu=False)["enforce_eager"]


def test_steering_is_part_of_what_names_a_compile_cache() -> None:
    few, many = (engine_arguments(EngineSettings("repo"), sites, on_gpu=True) for sites in ((0,), (0, 1)))
    assert few["additional_config"] != many["additional_config"]


@pytest.mark.parametrize("name", ["worker_extension_cls", "additional_config", "skip_tokenizer_init"])
def test_what_steering_depends_on_can_not_be_set_otherwise(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        engine_arguments(EngineSettings("repo", engine={name: 1}), (0,), on_gpu=False)
