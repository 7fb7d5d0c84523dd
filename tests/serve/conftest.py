"""One cluster for all tests of this folder: two models, four source sets, graphs of one, an open and a locked door."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.arguments import GatewayArgs, ModelAppArgs, SecretSource
from cluster.graph_arguments import GraphAppArgs
from tests.ray_testing import deploy, serve_instance
from tests.s3_server import s3_bucket
from tests.tiny_models import save_sae_folder

SECRET = "correct horse battery staple"
DEMO = "rayscope-demo"
GPT2 = "gpt2-small"
GRAPHS = "rayscope-demo-graphs"
TOKEN_LIMIT = 64
GRAPH_TOKEN_LIMIT = 48
MAX_GRAPHS = 8
MAX_QUEUED_GRAPHS = 4
BUCKET = "graphs"
_STAGE = {"num_cpus": 0.1, "threads": 1}


@dataclass(frozen=True)
class RunningCluster:
    """Where the cluster answers."""

    url: str
    locked_url: str
    folder: Path

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=60)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=60)


@pytest.fixture(scope="package")
def bucket() -> Iterator[Any]:
    """The bucket that graphs may be stored in, on a real S3 server; what Ray starts from now on finds it."""
    with s3_bucket(BUCKET) as bucket:
        yield bucket


@pytest.fixture(scope="package")
def cluster(hub: Path, bucket: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    from deployments.app import build_gateway, build_model_app
    from deployments.graph.app import build_graph_app

    root = tmp_path_factory.mktemp("cluster")
    local = save_sae_folder(root / "local", "local", {1: "blocks.1.hook_resid_post", 3: "blocks.3.hook_mlp_out"})
    secret_file = root / "secret"
    secret_file.write_text(SECRET)
    with serve_instance() as url:
        quick = {"refresh_s": 0.5}
        deploy(build_gateway, GatewayArgs.model_validate(quick), "gateway", "/")
        locked = GatewayArgs(secret=SecretSource(env=None, file=str(secret_file)), **quick)
        deploy(build_gateway, locked, "locked-gateway", "/locked")
        demo = {
            "model": DEMO,
            "token_limit": TOKEN_LIMIT,
            "runners": [{"source_sets": ["res-demo", "att-demo"], "threads": 1}],
        }
        deploy(build_model_app, ModelAppArgs.model_validate(demo), DEMO, None)
        gpt2 = {
            "model": GPT2,
            "token_limit": TOKEN_LIMIT,
            "batch_limit": 6,
            "runners": [
                {"name": "Published", "source_sets": ["res-jb"], "include": ["^[0-3]-"], "threads": 1},
                {"name": "Local", "source_sets": ["local"], "source_folders": {"local": str(local)}, "threads": 1},
            ],
        }
        deploy(build_model_app, ModelAppArgs.model_validate(gpt2), GPT2, None)
        graphs = {
            "model": DEMO,
            "transcoder_set": "plt-demo",
            "token_limit": GRAPH_TOKEN_LIMIT,
            "max_graphs": MAX_GRAPHS,
            "max_queued_graphs": MAX_QUEUED_GRAPHS,
            "working_gib": 2,
            "kept_gib": 0.1,
            "uploads": {"allow_loopback": True, "allowed_buckets": [f"s3://{BUCKET}"], "timeout_s": 20},
            "tracer": _STAGE,
            "attributor": _STAGE,
            "publisher": _STAGE,
        }
        deploy(build_graph_app, GraphAppArgs.model_validate(graphs), GRAPHS, None)
        yield RunningCluster(url, f"{url}/locked", root)
