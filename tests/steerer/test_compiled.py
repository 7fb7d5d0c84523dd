"""The model compiled by torch: the operation is part of what is compiled."""

from pathlib import Path

from tests.steerer.world import save_llama, world


def test_a_mixed_batch_writes_what_plain_hugging_face_with_hooks_writes(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "llama")
    with world(folder, graphs="compile", environ={"VLLM_CACHE_ROOT": str(tmp_path / "cache")}) as running:
        running.check(running.mixture())
