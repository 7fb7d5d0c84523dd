"""Persona assets written by hand, for tests that read them."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

WIDTH = 6
TITLES = ["- rude ↔ + polite", "- slow ↔ + quick"]


def arrays(seed: int = 0, width: int = WIDTH, rows: int = 3) -> dict[str, Any]:
    """The arrays of one axis file."""
    rng = np.random.default_rng(seed)
    return {
        "components": rng.normal(size=(rows, width)).astype(np.float32),
        "mean": rng.normal(size=width).astype(np.float32),
        "scaler_mean": rng.normal(size=width).astype(np.float32),
        "contrast": rng.normal(size=width).astype(np.float32),
    }


def manifest(**changes: Any) -> dict[str, Any]:
    """A manifest with one axis at layer 1."""
    entry = {"layer": 1, "file": "layer_1.safetensors", "scaler": "l2-mean"}
    return {"blank_system_prompt": False, "pc_titles": list(TITLES), "axes": [entry]} | changes


def write_asset(folder: Path, described: dict[str, Any] | str, files: dict[str, dict[str, Any]]) -> Path:
    """Writes an asset; a manifest that is text is written as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    text = described if isinstance(described, str) else yaml.safe_dump(described, allow_unicode=True)
    (folder / "persona.yaml").write_text(text, encoding="utf-8")
    for name, content in files.items():
        save_file(content, folder / name)
    return folder
