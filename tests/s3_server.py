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

SECONDS_TO_START = 240
# The system chooses the port, and the server says which: one that was looked for beforehand may be taken by then.
MOTO = """
import sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(sys.argv[1], port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
threading.Event().wait()
"""


@contextmanager
def s3_server(host: str = "127.0.0.1") -> Iterator[dict[str, Any]]:
    """Yield the options with which fsspec reaches a fresh server without any bucket."""
    with _running([sys.executable, "-c", MOTO, host]) as process:
        assert process.stdout is not None
        port = process.stdout.readline()
        assert port, f"the S3 server ended with {process.wait()}"
        yield _options(host, int(port))


@contextmanager
def s3_gateway(folder: Path, host: str = "127.0.0.1") -> Iterator[dict[str, Any]]:
    """Yield the same for one over a folder, which knows who may do what, and no conditional writes."""
    port = _free_port(host)
    command = ["versitygw", "--quiet", "--port", f"{host}:{port}", "posix", str(folder)]
    with _running(command) as process:
        _wait_for(host, port, process)
        yield _options(host, port)


def _options(host: str, port: int) -> dict[str, Any]:
    return {"key": "test", "secret": "not-a-secret", "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    owner = {"ROOT_ACCESS_KEY": "test", "ROOT_SECRET_KEY": "not-a-secret"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **owner}
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _free_port(host: str) -> int:
    """Return a port for a server that can be told one only; it is taken a moment later."""
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
