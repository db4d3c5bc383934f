"""A real S3 server on loopback: OpenStack Swift with its S3 API, in an environment of its own below ``.local/``.

Its packages would clash with Golive's, so they are installed apart, once. ``managed.Missing`` says what could not be had.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.platform.managed import SERVERS, Missing

USER, READER = "golive:backup", "golive:reader"
_PACKAGES = Path(__file__).with_name("swift_requirements.txt")
_SERVER = Path(__file__).with_name("swift_server.py")
_START_TIMEOUT_S, _INSTALL_TIMEOUT_S = 60, 300


@dataclass(frozen=True)
class Swift:
    """A running server; ``key`` is the secret of both users, of whom the reader may do nothing."""

    url: str
    key: str

    def environment(self, user: str = USER) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": self.key, "AWS_EC2_METADATA_DISABLED": "true"}

    def new_bucket(self) -> str:
        name = f"bucket-{secrets.token_hex(4)}"
        self.client().create_bucket(Bucket=name)
        return name

    def client(self) -> Any:
        """boto3's own client, for what a test arranges or looks at behind the store's back."""
        import boto3
        from botocore.config import Config

        config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=USER,
            aws_secret_access_key=self.key,
            config=config,
        )


@contextmanager
def running() -> Iterator[Swift]:
    """Starts the server in a new folder; ends it and removes the folder afterwards.

    Raises:
        Missing: it could not be installed.
    """
    python = _python()
    folder = Path(tempfile.mkdtemp(prefix="golive-swift-"))
    key = secrets.token_hex(16)
    (folder / "key").write_text(key)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([python, "-P", str(_SERVER), str(folder)], stdout=log, stderr=log, cwd=folder)
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not (folder / "port").exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Swift does not start: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        yield Swift(f"http://127.0.0.1:{(folder / 'port').read_text()}", key)
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)


def _python() -> str:
    """The Python of Swift's environment, made where it is not there yet."""
    place = SERVERS / "swift"
    if not place.exists():
        SERVERS.mkdir(parents=True, exist_ok=True)
        # made where it stays, because an environment cannot be moved; the mark says that it is whole
        made = Path(tempfile.mkdtemp(prefix="swift-", dir=SERVERS))
        for command in (
            [sys.executable, "-m", "venv", str(made)],
            [str(made / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(_PACKAGES)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S)
            if done.returncode:
                shutil.rmtree(made)
                raise Missing(
                    f"{_PACKAGES} could not be installed: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}"
                )
        with suppress(FileExistsError):  # another process was faster
            place.symlink_to(made.name)
    return str(place / "bin/python")
