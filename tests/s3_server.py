"""An S3-compatible server in a process of its own: no state and no interpreter shared with a test."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS_TO_START = 60


@contextmanager
def s3_server(host: str = "127.0.0.1") -> Iterator[dict[str, Any]]:
    """Yield the options with which fsspec reaches a fresh server without any bucket."""
    port = _free_port(host)
    with _running([sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)], host, port) as options:
        yield options


@contextmanager
def s3_gateway(folder: Path, host: str = "127.0.0.1") -> Iterator[dict[str, Any]]:
    """Yield the same for one over a folder, which knows who may do what, and no conditional writes."""
    port = _free_port(host)
    command = ["versitygw", "--quiet", "--port", f"{host}:{port}", "posix", str(folder)]
    with _running(command, host, port) as options:
        yield options


@contextmanager
def _running(command: Sequence[str], host: str, port: int) -> Iterator[dict[str, Any]]:
    owner = {"ROOT_ACCESS_KEY": "test", "ROOT_SECRET_KEY": "not-a-secret"}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **owner}
    )
    try:
        _wait_for(host, port, process)
        yield {"key": "test", "secret": "not-a-secret", "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
    finally:
        process.terminate()
        process.wait(timeout=10)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _wait_for(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while process.poll() is None:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"the S3 server ended with {process.returncode}")
