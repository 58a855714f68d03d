"""Addresses with credentials: none is read from a parameter file, and none is printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sections import whole

from medseg.core.credentials import has_credentials, without_credentials
from medseg.core.errors import UserError
from medseg.core.params import read_yaml


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pass@host/a.zip", "https://***@host/a.zip"),
        ("https://ghp_abc@host:80/a.zip", "https://***@host:80/a.zip"),
        ("https://me:p@ss@host", "https://***@host"),
        ("tcp://me:pass@10.0.0.1:8786", "tcp://***@10.0.0.1:8786"),
        ("404 for url: https://h/a?x=1&access_token=abc&y=2", "404 for url: https://h/a?x=1&access_token=***&y=2"),
        ("https://h/a?X-Amz-Signature=abc", "https://h/a?X-Amz-Signature=***"),
        ("https://h/a?AWSAccessKeyId=abc", "https://h/a?AWSAccessKeyId=***"),
        ("https://h/a?sv=1&sig=abc", "https://h/a?sv=1&sig=***"),
        ("https://h/a#token=abc", "https://h/a#token=***"),
        ("from https://a:b@h/ and https://c:d@i/", "from https://***@h/ and https://***@i/"),
    ],
)
def test_credentials_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert has_credentials(text)
    assert without_credentials(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("https://host/a@b.zip", "https://host/set.zip?id=12&download=1", "mail me@host", "images/{token}=1.png"),
        *("https://www.kaggle.com/api/v1/datasets/download/aryashah2k/breast", "sqlite:////a/logs/mlflow.db", "a://"),
    ],
)
def test_what_holds_none_stays_as_it_is(text: str) -> None:
    assert without_credentials(text) == text


@given(st.text("abc:@/?&=# tokensig."))
def test_what_was_stripped_holds_none(text: str) -> None:
    stripped = without_credentials(f"https://{text}")
    assert without_credentials(stripped) == stripped


@pytest.mark.timeout(20)
@pytest.mark.parametrize("part", ["a", "key", "://", "a://", "@", "://@", "?key", "&", "=", "://x?key=", ";"])
def test_it_takes_no_time_whatever_the_text(part: str) -> None:
    without_credentials(part * 300_000)
    without_credentials(f"https://h?{part * 300_000}")


@pytest.mark.parametrize("value", ["{path: 'https://me:pass@host/x'}", "[{url: 'http://h/a.zip?token=pass'}]"])
def test_a_parameter_file_with_credentials_is_refused_without_showing_them(tmp_path: Path, value: str) -> None:
    (tmp_path / "params.yaml").write_text(f"data: {value}\n")
    with pytest.raises(UserError, match=r"params\.yaml: http.*netrc") as caught:
        read_yaml(tmp_path / "params.yaml")
    assert "pass" not in str(caught.value).replace("password", "")


def test_a_stage_prints_none(tmp_path: Path, project: Path) -> None:
    """Here of a variable of the environment, which stands in a message about it."""
    (tmp_path / "params.yaml").write_text(whole({"data": {"name": "ucsb", "path": None, "archives": []}}))
    command = [sys.executable, "-m", "stages.download", str(tmp_path / "params.yaml"), str(tmp_path / "raw")]
    environment = os.environ | {"PYTHONPATH": "src", "MEDSEG_DATA": "https://me:pass@host/x"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "https://***@host/x" in done.stderr
    assert "pass" not in done.stdout + done.stderr
