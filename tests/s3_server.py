"""A real S3 server in this process, and the variables by which boto3 finds it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

S3_SECRET = "the-clusters-secret-key"


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """A server without buckets; gives what an operator sets to reach it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ACCESS_KEY_ID": "cluster",
        "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
    }
    server.stop()


@contextmanager
def s3_bucket(name: str) -> Iterator[Any]:
    """A bucket on a server of its own, which this process and those that it starts meanwhile find."""
    with s3_server() as variables, pytest.MonkeyPatch.context() as patch:
        for variable, value in variables.items():
            patch.setenv(variable, value)
        bucket = boto3.session.Session().resource("s3").Bucket(name)
        bucket.create()
        yield bucket
