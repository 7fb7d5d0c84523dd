"""The configuration: flags and files say the same, and a misspelt key stops the start with its path."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from cluster.arguments import GatewayArgs, ModelAppArgs, SecretSource
from cluster.cli import app
from cluster.config import SingleModel, check, config_of, read_config
from cluster.graph_arguments import GraphAppArgs
from core.errors import InvalidRequest

ROOT = Path(__file__).parents[2]
RUNNER = CliRunner()


def model_args(config: dict[str, Any]) -> dict[str, Any]:
    return config["applications"][1]["args"]


@pytest.mark.parametrize("path", [ROOT / "serve_config.yaml", *sorted((ROOT / "examples").glob("*.yaml"))], ids=str)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = read_config(path)
    schema = ServeDeploySchema.model_validate(config)
    gateway, *models = [application.import_path for application in schema.applications]
    assert gateway == "deployments.app:build_gateway"
    assert models
    assert set(models) <= {
        "deployments.app:build_model_app",
        "deployments.graph.app:build_graph_app",
        "deployments.autointerp.app:build_autointerp_app",
    }


def test_a_flag_adds_graphs() -> None:
    config = config_of(SingleModel(model_id="google/gemma-2-2b", transcoder_set="gemma", lazy_encoder=True))
    check(config)
    graphs = config["applications"][2]
    assert graphs["name"] == "google--gemma-2-2b-graphs"
    args = GraphAppArgs.model_validate(graphs["args"])
    assert (args.transcoder_set, args.lazy_encoder, args.max_feature_nodes) == ("gemma", True, 10_000)
    assert len(config_of(SingleModel(model_id="google/gemma-2-2b"))["applications"]) == 2


@pytest.mark.parametrize(
    ("key", "value", "path"),
    [
        ("modell", "x", "args.modell"),
        ("token_limit", 0, "args.token_limit"),
        ("device", "tpu", "args.device"),
        ("runners", [{"num_gpu": 1}], "args.runners.0.num_gpu"),
        ("runners", [{"min_replicas": 3, "max_replicas": 1}], "min_replicas (3) is above"),
        ("runners", [{"name": "a"}, {"name": "a"}], "unique"),
        ("runners", [{"name": "a", "source_sets": ["s"]}, {"name": "b", "source_sets": ["s"]}], "two runners"),
        ("runners", [{"source_folders": {"s": "/x"}}], "does not list"),
        ("runners", [{"max_queued_tokens": 10}], "below token_limit"),
    ],
)
def test_a_wrong_argument_names_its_application_and_key(key: str, value: object, path: str) -> None:
    config = config_of(SingleModel(model_id="gpt2-small"))
    model_args(config)[key] = value
    with pytest.raises(InvalidRequest) as refusal:
        check(config)
    assert "gpt2-small: " in refusal.value.message
    assert path in refusal.value.message


def test_flags_become_the_equivalent_configuration(tmp_path: Path) -> None:
    written = tmp_path / "config.yaml"
    flags = [
        "serve",
        "--model_id=gemma-2-2b",
        "--sae_sets=gemmascope-res-16k",
        "--port=5009",
        "--model_dtype=float32",
        "--sae_dtype=bfloat16",
        "--token_limit=300",
        "--device=cpu",
        "--host=0.0.0.0",
        "--include-sae=^12.*",
        "--exclude-sae=^13",
        "--override_model_id=gemma-2-2b-it",
        "--max_loaded_saes=3",
        "--secret=hunter2",
        f"--write_config={written}",
    ]
    result = RUNNER.invoke(app, flags)
    assert result.exit_code == 0, result.output
    assert "hunter2" not in written.read_text()
    config = yaml.safe_load(written.read_text())
    assert config["http_options"] == {"host": "0.0.0.0", "port": 5009, "request_timeout_s": 310}
    args = ModelAppArgs.model_validate(model_args(config))
    assert (args.model, args.weights, args.model_dtype, args.device) == (
        "gemma-2-2b",
        "gemma-2-2b-it",
        "float32",
        "cpu",
    )
    runner = args.runners[0]
    assert runner.source_sets == ["gemmascope-res-16k"]
    assert (runner.include, runner.exclude) == (["^12.*"], ["^13"])
    assert (runner.sae_dtype, runner.max_loaded_saes, args.token_limit) == ("bfloat16", 3, 300)


@pytest.mark.parametrize("sets", ['["res-jb", "att-kk"]', "res-jb att-kk"])
def test_environment_variables_say_what_flags_say(tmp_path: Path, sets: str) -> None:
    by_variables, by_flags = tmp_path / "variables.yaml", tmp_path / "flags.yaml"
    variables = {"MODEL_ID": "gpt2-small", "SAE_SETS": sets, "TOKEN_LIMIT": "77", "INCLUDE_SAE": "^5-"}
    assert RUNNER.invoke(app, ["serve", f"--write_config={by_variables}"], env=variables).exit_code == 0
    flags = ["--model_id=gpt2-small", "--sae_sets=res-jb", "--sae_sets=att-kk", "--token_limit=77", "--include-sae=^5-"]
    assert RUNNER.invoke(app, ["serve", *flags, f"--write_config={by_flags}"]).exit_code == 0
    assert by_variables.read_text() == by_flags.read_text()


def test_the_variables_of_the_serverless_steering_server_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "by-variables.yaml"
    variables = {
        "MODEL_ID": "meta-llama/Llama-3.3-70B-Instruct",
        "OVERRIDE_MODEL_ID": "casperhansen/llama-3.3-70b-instruct-awq",
        "MODEL_DTYPE": "bfloat16",
        "TOKEN_LIMIT": "65536",
        "MAX_MODEL_LEN": "65537",
        "GPU_MEMORY_UTILIZATION": "0.95",
        "TENSOR_PARALLEL_SIZE": "4",
        "PERSONA_DATA_PATH": "/app/data",
    }
    assert RUNNER.invoke(app, ["serve", f"--write_config={path}"], env=variables).exit_code == 0
    args = ModelAppArgs.model_validate(read_config(path)["applications"][1]["args"])
    assert (args.model, args.weights) == (variables["MODEL_ID"], variables["OVERRIDE_MODEL_ID"])
    assert (args.model_dtype, args.token_limit, args.generation_limit) == ("bfloat16", 65536, 65537)
    assert (args.persona_data_path, args.runners) == ("/app/data", [])
    assert args.steerer is not None
    assert (args.steerer.tensor_parallel_size, args.steerer.gpu_memory_utilization) == (4, 0.95)
    assert args.steerer.max_model_len == 65537


def test_without_them_a_model_has_no_steerer() -> None:
    args = ModelAppArgs.model_validate(config_of(SingleModel(model_id="gpt2-small"))["applications"][1]["args"])
    assert args.steerer is None
    assert len(args.runners) == 1


def test_the_catalogue_is_listed() -> None:
    listed = RUNNER.invoke(app, ["models"]).output
    assert "rayscope-demo" in listed
    assert "gpt2-small" in listed
    assert RUNNER.invoke(app, ["serve", "--list_models"]).output == listed


def test_a_missing_or_broken_file_is_refused_in_words(tmp_path: Path) -> None:
    missing = RUNNER.invoke(app, ["serve", f"--config={tmp_path / 'none.yaml'}"])
    assert missing.exit_code == 1
    assert "can not be read" in missing.output
    broken = tmp_path / "broken.yaml"
    broken.write_text("applications: [")
    assert RUNNER.invoke(app, ["serve", f"--config={broken}"]).exit_code == 1


def test_a_secret_is_read_from_a_variable_or_a_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError):
        GatewayArgs.model_validate({"secret": "hunter2"})
    monkeypatch.setenv("DOOR", "one")
    assert SecretSource(env="DOOR", file=None).read() == "one"
    assert SecretSource(env="NOBODY_SET_THIS", file=None).read() is None
    file = tmp_path / "secret"
    file.write_text(" two\n")
    assert SecretSource(env=None, file=str(file)).read() == "two"
    with pytest.raises(ValueError, match="can not be read"):
        SecretSource(env=None, file=str(tmp_path / "gone")).read()
    with pytest.raises(ValidationError):
        SecretSource.model_validate({"env": "A", "file": "B"})
