"""One cluster for all tests of this folder: two models, four source sets, an open door and a locked one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from cluster.arguments import GatewayArgs, ModelAppArgs, SecretSource
from tests.ray_testing import deploy, serve_instance
from tests.tiny_models import save_sae_folder

SECRET = "correct horse battery staple"
DEMO = "rayscope-demo"
GPT2 = "gpt2-small"
TOKEN_LIMIT = 64


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
def cluster(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    from deployments.app import build_gateway, build_model_app

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
        yield RunningCluster(url, f"{url}/locked", root)
