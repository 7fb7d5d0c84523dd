"""The servers that are measured: Rayscope as `rayscope serve` runs it, and the peer.

Both load the same weights, use all cores, and answer the same requests. Rayscope's configuration is the default one
for a model named by flags; only its port is free and its sources are the ones that exist here.
"""

import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.server import Server
from benchmarks.workload import LAYERS, MODEL, ROUTES, SOURCE_SET
from benchmarks.world import hub_variables, read_prompts
from cluster.config import SingleModel, config_of, read_config

_DEMO_CONFIG = Path(__file__).parent.parent / "serve_config.yaml"
_DEMO_BODY = {"prompt": "Le chat dort sur le tapis.", "model": "rayscope-demo", "source": "0-res-demo", "index": "17"}
# A cluster of its own beside any other on the machine, its door open to this process.
_OWN_CLUSTER = {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0", "SECRET": ""}


def rayscope(folder: Path, environment: Mapping[str, str]) -> Server:
    """A cluster that serves GPT-2 small; its configuration is written into `folder`."""
    layers = "|".join(map(str, range(LAYERS)))
    port = _free_port()
    flags = SingleModel(
        model_id=MODEL, sae_sets=[SOURCE_SET], include_sae=[f"^({layers})-{SOURCE_SET}$"], device="cpu", port=port
    )
    return _cluster(folder, config_of(flags), port, _first_request(), hub_variables() | environment)


def rayscope_demo(folder: Path) -> Server:
    """What `make serve` starts, on a free port."""
    port = _free_port()
    config = read_config(_DEMO_CONFIG)
    config["http_options"]["port"] = port
    return _cluster(folder, config, port, (ROUTES["single"].path, _DEMO_BODY), {})


def peer() -> Server:
    """The single-process server."""
    port = _free_port()
    command = [sys.executable, "-m", "benchmarks.peer", str(port)]
    return Server(command, f"http://127.0.0.1:{port}", _first_request(), hub_variables())


def _cluster(
    folder: Path,
    config: dict[str, Any],
    port: int,
    first: tuple[str, dict[str, Any]],
    environment: Mapping[str, str],
) -> Server:
    path = folder / f"serve-{port}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    command = [str(Path(sys.executable).with_name("rayscope")), "serve", "--config", str(path)]
    return Server(command, f"http://127.0.0.1:{port}", first, {**_OWN_CLUSTER, **environment})


def _first_request() -> tuple[str, dict[str, Any]]:
    route = ROUTES["single"]
    return route.path, route.body(0, read_prompts()[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
