"""`rayscope autointerp export` on a cache of the demo."""

import gzip
import json

from typer.testing import CliRunner

from cluster.autointerp_cli import autointerp

SOURCE = "1-res-demo"


def export(*arguments: str):
    return CliRunner().invoke(autointerp, ["export", *arguments])


def test_a_cache_goes_to_both_tools_at_once(demo_folder, tmp_path):
    said = export(
        str(demo_folder), f"--delphi={tmp_path / 'd'}", f"--neuronpedia={tmp_path / 'n'}", "--n_splits=3", "--sources",
        SOURCE,
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    assert len(list((tmp_path / "d" / SOURCE).glob("*.safetensors"))) == 3
    assert not (tmp_path / "d" / "2-res-demo").exists()
    (features, *_) = sorted((tmp_path / "n" / SOURCE / "features").iterdir())
    rows = [json.loads(line) for line in gzip.decompress(features.read_bytes()).splitlines()]
    assert [int(row["index"]) for row in rows[:3]] == [0, 1, 2]
    written = sum(1 for place in (tmp_path / "d", tmp_path / "n") for file in place.rglob("*.*") if file.is_file())
    assert f"Written: {written - 1} files" in said.output  # delphi's config.json is not counted


def test_a_source_that_was_not_cached_is_refused_in_words(demo_folder, tmp_path):
    said = export(str(demo_folder), f"--delphi={tmp_path}", "--sources", "9-res-demo")
    assert said.exit_code == 1
    assert "'9-res-demo' was not cached" in said.output


def test_a_folder_without_a_cache_is_refused_in_words(tmp_path):
    said = export(str(tmp_path), f"--delphi={tmp_path}")
    assert said.exit_code == 1
    assert "Traceback" not in said.output


def test_nowhere_to_go_is_a_usage_error(tmp_path):
    assert export(str(tmp_path)).exit_code == 2
