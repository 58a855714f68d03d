"""Outputs through a remote: `dvc push` to an S3 server on loopback, and a fresh clone that pulls instead of running.

Up to the stage `augment`: training adds minutes and no other kind of output.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import pytest
from clone import TINY, Clone, copy_project
from moto.server import ThreadedMotoServer

pytestmark = pytest.mark.slow

BUCKET = "medseg"
LAST = "augment"
OUTS = ["data/raw", "data/manifest.csv", "data/splits", "data/prepared", "data/augmented", "plots/prepare"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server with an empty bucket; credentials lie in the environment, as on a cluster."""
    credentials = {"ACCESS_KEY_ID": "tester", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}
    for name, value in credentials.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket=BUCKET)
    yield f"http://{host}:{port}"
    s3.stop()


def run_and_push(project: Path, folder: Path, server: str) -> Clone:
    """A clone whose outputs are made and pushed, and whose lock is committed."""
    clone = copy_project(project, folder)
    (folder / "dvc.lock").unlink(missing_ok=True)
    clone.run("medseg", "params", *TINY)
    clone.run("dvc", "repro", LAST)
    clone.run("dvc", "remote", "add", "--default", "storage", f"s3://{BUCKET}/cache")
    clone.run("dvc", "remote", "modify", "--local", "storage", "endpointurl", server)
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "a tiny run and where its outputs lie")
    clone.run("dvc", "push", "--with-deps", LAST)
    return clone


def content(folder: Path) -> dict[str, bytes]:
    files = [path for out in OUTS for path in [folder / out, *(folder / out).rglob("*")] if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_fresh_clone_pulls_instead_of_running(project: Path, tmp_path: Path, server: str) -> None:
    first = run_and_push(project, tmp_path / "first", server)
    assert "in sync" in first.run("dvc", "status", "--cloud", "--with-deps", LAST)
    subprocess.run(["git", "clone", "--quiet", str(first.folder), str(tmp_path / "fresh")], check=True)
    fresh = Clone(tmp_path / "fresh")
    assert content(fresh.folder) == {}
    fresh.run("dvc", "remote", "modify", "--local", "storage", "endpointurl", server)
    fresh.run("dvc", "pull", "--with-deps", LAST)
    assert content(fresh.folder) == content(first.folder) != {}
    assert "up to date" in fresh.run("dvc", "status", "--with-deps", LAST)
    assert fresh.repro(LAST) == []
    assert fresh.run("git", "status", "--porcelain") == ""
