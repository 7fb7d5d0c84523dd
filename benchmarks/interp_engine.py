"""interp-engine (b): its eager model called in process, with SAELens' encoding, one column where one is asked for.

The package is no dependency of Rayscope. It is installed without its dependencies, which Rayscope's environment already
has, into a folder of its own below `benchmarks/.cache`, and runs in its own process with that folder on its path: the
same torch and the same transformers then serve everyone.

    python -m benchmarks.interp_engine SECONDS ROUTE...        (with the folder on PYTHONPATH)
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.computation import Computation, load_saes
from benchmarks.timing import report, time_routes

VERSION = "1.14.2"
FOLDER = Path(__file__).parent / ".cache" / f"interp-engine-{VERSION}"
_REPO = "openai-community/gpt2"


def install() -> str | None:
    """Installs the package unless it is there; returns why it could not be had, or None."""
    if FOLDER.exists():
        return None
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "install", "-q", "--no-deps", "--python", sys.executable, "--target", str(FOLDER)]
    done = subprocess.run([*command, f"interp-engine=={VERSION}"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def measure(routes: list[str], seconds: float) -> dict[str, Any]:
    """Times the routes. Its capture runs the model to the end, unembedding included."""
    from interp_engine import Address, capture, load_model  # pyright: ignore[reportMissingImports]
    from transformers import AutoTokenizer

    model = load_model(_REPO, backend="eager", device="cpu")

    def read(ids: torch.Tensor, layers: tuple[int, ...]) -> dict[int, torch.Tensor]:
        points = {layer: Address("resid_pre", layer) for layer in layers}
        cache = capture(model, ids, list(points.values()))
        return {layer: cache[point] for layer, point in points.items()}

    computation = Computation(load_saes(), read)
    tokenizer = AutoTokenizer.from_pretrained(_REPO)
    column = time_routes(computation, tokenizer, routes, seconds, whole=False)
    return {"threads": torch.get_num_threads(), "version": VERSION, "column": column}


if __name__ == "__main__":
    report(measure)
