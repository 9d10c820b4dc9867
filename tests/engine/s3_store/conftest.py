"""A real S3 server for this folder, a bucket for each test, and the store in it."""

import hashlib
from collections.abc import Generator

import pytest

from hyperexport.store.s3 import S3Store
from tests.engine.s3_exports import open_store
from tests.engine.s3_servers import S3Server, rclone_s3


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3Server]:
    with rclone_s3(tmp_path_factory.mktemp("rclone")) as running:
        yield running


@pytest.fixture
def bucket(server: S3Server, request: pytest.FixtureRequest) -> str:
    return server.make_bucket("b" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12])


@pytest.fixture
def store(server: S3Server, bucket: str) -> S3Store:
    return open_store(server, bucket)
