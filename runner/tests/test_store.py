"""One store behind fsspec: what it does about hiccups, refusals and secrets."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tenacity import wait_none

from benchmarks.server import Kind, ProductServer
from geozarr_runner.errors import (
    InvalidRequest,
    ProductBroken,
    ProductDenied,
    ProductNotFound,
    ProductUnreachable,
    StorageDenied,
    StorageFailed,
    StorageFull,
)
from geozarr_runner.staging.download import download
from geozarr_runner.stores import store as module
from geozarr_runner.stores.access import retries
from geozarr_runner.stores.access.failures import not_found, storage_failure
from geozarr_runner.stores.access.retries import ATTEMPTS
from geozarr_runner.stores.store import Store
from geozarr_runner.trust.addresses import local_path, redact
from runner.tests.support import until

BODY = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "wait_exponential_jitter", lambda **_: wait_none())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "p.zarr" / "a b").mkdir(parents=True)
    (tmp_path / "p.zarr" / "0.0").write_bytes(BODY)
    (tmp_path / "p.zarr" / "a b" / "ü+1").write_bytes(b"odd")
    return tmp_path


@pytest.fixture
def served(folder: Path) -> Iterator[ProductServer]:
    with ProductServer(folder) as server:
        yield server


def test_a_chain_before_a_web_server_does_not_wait_for_its_own_threads(folder: Path) -> None:
    """Calls of a cache wait in threads of the loop that their web client needs one of, to look up names and netrc."""
    keys = [f"c{number}" for number in range(30)]
    for key in keys:
        (folder / "p.zarr" / key).write_bytes(BODY[:10])
    with ProductServer(folder) as server:
        store = Store(f"simplecache::{server.url}/p.zarr")
        assert store.sizes(keys) == dict.fromkeys(keys, 10)


@pytest.fixture(params=["local", "http", "memory"])
def any_store(request: pytest.FixtureRequest, folder: Path) -> Iterator[Store]:
    if request.param == "local":
        yield Store(folder / "p.zarr")
    elif request.param == "http":
        with ProductServer(folder) as server:
            yield Store(f"{server.url}/p.zarr/")
    else:
        memory = fsspec.filesystem("memory")
        memory.put(f"{folder}/p.zarr/", "/shelf/p.zarr", recursive=True)
        yield Store("memory://shelf/p.zarr")
        memory.rm("/shelf", recursive=True)


def fetch(store: Store, targets: dict[str, Path], progress: Callable[[int], None]) -> int:
    """Download objects of a store that does not tell their sizes."""
    return download(store, targets, dict.fromkeys(targets), progress)


def test_many_objects_are_asked_for_in_parts(any_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is what exists, and each folder is listed once."""
    monkeypatch.setattr(module, "ASKED_AT_ONCE", 3)
    listed: list[str] = []
    if any_store.local is None:
        real = any_store.filesystem._ls
        monkeypatch.setattr(any_store.filesystem, "_ls", lambda path, **how: listed.append(path) or real(path, **how))
    keys = (key for number in range(10) for key in (f"{number}.0", f"a b/{number}", "a b/ü+1"))
    assert any_store.sizes(keys) == {"0.0": len(BODY), "a b/ü+1": 3}
    assert len(listed) == len(set(listed))


def test_every_store_reads_alike(any_store: Store, tmp_path: Path) -> None:
    assert any_store.read("0.0") == BODY
    assert any_store.read("a b/ü+1") == b"odd"
    assert any_store.read("absent") is None
    assert any_store.read("0.0/deeper") is None
    assert any_store.sizes(["0.0", "a b/ü+1", "absent"]) == {"0.0": len(BODY), "a b/ü+1": 3}
    if any_store.local is None:
        arrived: list[int] = []
        keys = ["0.0", "a b/ü+1"]
        assert fetch(any_store, {key: tmp_path / "new" / key for key in keys}, arrived.append) == len(BODY) + 3
        assert sum(arrived) == len(BODY) + 3
        assert (tmp_path / "new" / "0.0").read_bytes() == BODY
        assert sorted(path.name for path in (tmp_path / "new").rglob("*")) == ["0.0", "a b", "ü+1"]


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_what_may_get_better_is_tried_again(status: int, served: ProductServer, tmp_path: Path) -> None:
    store = Store(f"{served.url}/p.zarr")
    served.fail("/p.zarr/0.0", status, 3)
    assert store.read("0.0") == BODY
    served.fail("/p.zarr/0.0", status, 3)
    assert fetch(store, {"0.0": tmp_path / "0.0"}, lambda count: None) == len(BODY)


def test_a_size_that_is_not_told_is_no_missing_object(served: ProductServer) -> None:
    """fsspec calls every failure of this request "not found": a chunk would silently become its fill value."""
    store = Store(f"{served.url}/p.zarr")
    served.fail("/p.zarr/0.0", 503, 3)
    assert store.sizes(["0.0"]) == {"0.0": len(BODY)}
    served.fail("/p.zarr/0.0", 503, 20)
    with pytest.raises(ProductUnreachable, match="503"):
        store.sizes(["0.0"])


def test_a_refused_size_is_no_missing_object(served: ProductServer) -> None:
    served.fail("/p.zarr/0.0", 403, 2)
    with pytest.raises(ProductDenied):
        Store(f"{served.url}/p.zarr").sizes(["0.0"])


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_not_tried_again(status: int, served: ProductServer) -> None:
    served.fail("/p.zarr/0.0", status, 4)
    with pytest.raises(ProductDenied, match=str(status)) as caught:
        Store(f"{served.url}/p.zarr").read("0.0")
    assert served.counts.paths["/p.zarr/0.0"].requests == {Kind.FAULT: 1}
    assert "FSSPEC_HTTPS" in caught.value.remedy
    assert not caught.value.retryable


def test_a_truncated_body_is_fetched_again(served: ProductServer, tmp_path: Path) -> None:
    store = Store(f"{served.url}/p.zarr")
    served.truncate("/p.zarr/0.0", 100_000, 2)
    arrived: list[int] = []
    assert fetch(store, {"0.0": tmp_path / "0.0"}, arrived.append) == len(BODY)
    assert sum(arrived) == len(BODY)
    assert (tmp_path / "0.0").read_bytes() == BODY
    served.truncate("/p.zarr/0.0", 100_000, 10)
    with pytest.raises(ProductUnreachable, match=f"after {ATTEMPTS} tries"):
        fetch(store, {"0.0": tmp_path / "1.0"}, arrived.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.0", "p.zarr"]


def test_nobody_there(unused_url: str) -> None:
    with pytest.raises(ProductUnreachable, match=f"after {ATTEMPTS} tries") as caught:
        Store(f"{unused_url}/p.zarr").read("0.0")
    assert caught.value.retryable
    assert caught.value.given == f"{unused_url}/p.zarr/0.0"


@pytest.fixture
def untrusted(tmp_path: Path) -> Iterator[tuple[str, list[None]]]:
    """The address of a server whose certificate it has signed itself, and an entry for each connection to it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    plain = serialization.NoEncryption()
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    connected: list[None] = []

    class Noting(ThreadingHTTPServer):
        def get_request(self) -> tuple[socket.socket, object]:
            connected.append(None)
            return super().get_request()  # what it refuses is a connection too

    server = Noting(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"https://localhost:{server.server_port}/a.zarr", connected
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_certificate_that_is_not_trusted_is_no_matter_of_storage(untrusted: tuple[str, list[None]]) -> None:
    url, connected = untrusted
    with pytest.raises(ProductUnreachable, match="certificate") as caught:
        Store(url).read(".zmetadata")
    assert "SSL_CERT_FILE" in caught.value.remedy
    assert len(connected) == 1, "it is not tried again"


def test_one_failure_ends_all(served: ProductServer, folder: Path, tmp_path: Path) -> None:
    for number in range(50):
        (folder / "p.zarr" / str(number)).write_bytes(b"x")
    served.fail("/p.zarr/3", 403)
    with pytest.raises(ProductDenied):
        fetch(
            Store(f"{served.url}/p.zarr"),
            {str(number): tmp_path / "n" / str(number) for number in range(50)},
            lambda count: None,
        )
    assert not list((tmp_path / "n").glob("*.part"))


def test_a_signature_goes_with_every_object_and_is_never_shown(folder: Path, tmp_path: Path) -> None:
    signature = "sig=a%2Bb%3D%3D&se=2026-01-01T00%3A00%3A00Z"
    with ProductServer(folder, signature="se=2026-01-01T00%3A00%3A00Z") as server:
        store = Store(f"{server.url}/p.zarr?{signature}")
        assert store.read("0.0") == BODY
        assert store.sizes(["0.0"]) == {"0.0": len(BODY)}
        assert fetch(store, {"0.0": tmp_path / "0.0"}, lambda count: None) == len(BODY)
        server.fail("/p.zarr/0.0", 503, 10)
        with pytest.raises(ProductUnreachable) as caught:
            store.read("0.0")
        with pytest.raises(ProductDenied) as denied:
            Store(f"{server.url}/p.zarr?sig=s3cret").read("0.0")
    assert "sig" not in str(caught.value)
    assert "s3cret" not in str(denied.value)
    assert "sig" not in repr(store)


def test_credentials_come_from_where_fsspec_reads_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ProductServer(folder, token="s3cret") as server:
        with pytest.raises(ProductDenied) as caught:
            Store(f"{server.url}/p.zarr").read("0.0")
        assert "s3cret" not in str(caught.value)
        headers = {"headers": {"Authorization": "Bearer s3cret"}}
        monkeypatch.setitem(fsspec.config.conf, "http", headers)
        assert Store(f"{server.url}/p.zarr").read("0.0") == BODY


def test_an_interrupted_wait_ends_the_download(folder: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    def interrupt() -> None:
        until(lambda: slow.counts.data)
        os.kill(os.getpid(), signal.SIGTERM)

    with ProductServer(folder, bandwidth=1) as slow:
        signal.signal(signal.SIGTERM, stop)
        threading.Thread(target=interrupt).start()
        with pytest.raises(Stop):
            fetch(Store(f"{slow.url}/p.zarr"), {"0.0": tmp_path / "0.0"}, lambda count: None)
    assert [path.name for path in tmp_path.iterdir()] == ["p.zarr"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:s3cret@host/p.zarr?sig=s3cret#s3cret", "https://host/p.zarr"),
        ("s3://bucket/p.zarr", "s3://bucket/p.zarr"),
        ("/a?b/p.zarr", "/a?b/p.zarr"),
        ("http://[broken/p.zarr?sig=s3cret", "http://[broken/p.zarr"),
    ],
)
def test_what_is_shown_of_an_address(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_local_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_path("p.zarr") == tmp_path / "p.zarr"
    assert local_path(f"file://{tmp_path}/p.zarr") == tmp_path / "p.zarr"
    assert local_path("~/p.zarr") == Path.home() / "p.zarr"
    for distant in ("https://host/p.zarr", "s3://bucket/p.zarr", "simplecache::s3://bucket/p.zarr"):
        assert local_path(distant) is None


@pytest.mark.parametrize("url", ["http://[::1", "https://[x]/p.zarr"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be an address"):
        Store(url)


def test_an_unknown_protocol() -> None:
    with pytest.raises(ProductUnreachable, match="cannot be opened"):
        Store("carrier-pigeon://roof/p.zarr").read("0.0")


def test_a_near_name_is_told(folder: Path) -> None:
    error = not_found(str(folder / "q.zarr"))
    assert isinstance(error, ProductNotFound)
    assert "p.zarr" in error.remedy


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        ("ENOSPC", StorageFull),
        ("EDQUOT", StorageFull),
        ("EFBIG", StorageFull),
        ("EACCES", StorageDenied),
        ("EROFS", StorageDenied),
        ("ENOTDIR", StorageFailed),
        ("ENAMETOOLONG", StorageFailed),
    ],
)
def test_what_the_system_says_of_a_disk(number: str, kind: type[StorageFailed]) -> None:
    import errno

    failure = storage_failure(OSError(getattr(errno, number), "", "/out"))
    assert type(failure) is kind
    assert failure.given == "/out"
    assert failure.remedy
    assert storage_failure(OSError(errno.ECONNREFUSED, "")) is None
    assert storage_failure(ValueError()) is None


def test_an_answer_of_another_service_is_no_product(served: ProductServer, folder: Path) -> None:
    (folder / "p.zarr" / ".zmetadata").write_text(json.dumps("hello"))
    from geozarr_runner.inspection.reader import open_product

    with pytest.raises(ProductBroken):
        open_product(f"{served.url}/p.zarr")
