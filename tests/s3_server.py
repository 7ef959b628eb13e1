"""An S3-compatible server in a process of its own: no state and no interpreter shared with a test."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SECONDS_TO_START = 60


@contextmanager
def s3_server(host: str = "127.0.0.1") -> Iterator[dict[str, Any]]:
    """Yield the options with which fsspec reaches a fresh server without any bucket."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(host, port, process)
        yield {"key": "test", "secret": "not-a-secret", "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
    finally:
        process.terminate()
        process.wait(timeout=10)


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
