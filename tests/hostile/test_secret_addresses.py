"""What is secret in an address stays there: it is shown nowhere, and no file that a run leaves holds it."""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
import xarray as xr

import geozarr_nb as gz
from benchmarks.server import ProductServer
from geozarr_nb.request import request_for
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.stores.access.failures import error_text
from geozarr_runner.trust.addresses import redact, redact_text, secrets

GROUP = "/measurements/reflectance/r60m"
# Where a secret stands in an address.
FORMS = [
    "https://{}@h.example/p.zarr",
    "https://me:{}@h.example/p.zarr",
    "https://me:{}@h.example:8443/a/p.zarr?b=c#d",
    "HTTPS://me:{}@h.example/p.zarr",
    "https://me%3A{}%40h.example/p.zarr",
    "https://h.example/p.zarr?{}",
    "https://h.example/p.zarr?token={}",
    "https://h.example/p.zarr?a=b&X-Amz-Signature={}&c=d",
    "https://h.example/p.zarr#{}",
    "https://h.example/p.zarr;sig={}",
    "https://h.example/a;sig={}/p.zarr",
    "https://h.example/p.zarr%3Bsig%3D{}",
    "https://h.example/p.zarr%3Fsig%3D{}",
    "https://h.example/p.zarr%253Fsig%253D{}",
    "https://h.example/p.zarr%23sig%3D{}",
    "s3://key:{}@bucket/p.zarr",
    "gs://{}@bucket/p.zarr",
    "ftp://me:{}@h.example/p.zarr",
    "simplecache::http://me:{}@h.example/p.zarr",
    "simplecache::https://h.example/p.zarr?sig={}",
    "simplecache::https://h.example/p.zarr;sig={}",
    "simplecache::filecache::s3://key:{}@bucket/p.zarr",
    "zip://p.zarr::https://h.example/a.zip?sig={}",
    "zip://p.zarr::https://me:{}@h.example/a.zip",
    "zip://p.zarr?sig={}::https://h.example/a.zip",
    "http://me:{}@h.example/p.zarr::file:///a",
    "//me:{}@h.example/p.zarr",
    "me:{}@h.example/p.zarr",
]


def some_secrets() -> Iterator[str]:
    chance = random.Random(17)
    letters = "abcXYZ0189-._~!$&'()*+,;=:%"
    yield from ("SECRETword", "wJalrXUtnFEMI+K7MDENG", "a" * 40, "1234567890")
    for _ in range(200):
        yield "".join(chance.choices(letters, k=chance.randint(8, 24)))


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_never_comes_out(form: str) -> None:
    for secret in some_secrets():
        for spelled in (secret, quote(secret, safe="")):
            shown = redact(form.format(spelled))
            assert secret not in shown, (form, secret)
            assert spelled not in shown, (form, spelled)
            assert redact(shown) == shown, "what is shown is shown as it is"


@pytest.mark.parametrize(
    "form", ["https://me:{}@h.example/p.zarr", "simplecache::s3://key:{}@bucket/p.zarr", "//me:{}@h/p"]
)
@pytest.mark.parametrize("odd", "/?#@")
def test_nor_one_that_is_not_encoded_as_it_should_be(form: str, odd: str) -> None:
    chance = random.Random(18)
    for _ in range(200):
        parts = ["".join(chance.choices("abcXYZ+=", k=chance.randint(4, 9))) for _ in range(3)]
        shown = redact(form.format(odd.join(parts)))
        assert not [part for part in parts if part in shown], (form, parts)


@pytest.mark.parametrize(
    "address",
    [
        "/data/a b/p.zarr",
        "/data/what?;a=b#c@d:e.zarr",
        "rel/a:b@c.zarr",
        "./me:word@here.zarr",
        "file:///data/p.zarr",
        "https://h.example:8443/a@b/c;d/p.zarr",
        "http://[::1]:8080/p.zarr",
        "https://h.example/S2A_T10:20:30.zarr",
        "s3://bucket/p%20q.zarr",
        "memory://a/b",
        "pvc://claim/a/b.zarr",
        "simplecache::/data/what?#.zarr",
        "zip://p.zarr::https://h.example/a.zip",
        "s3",
        "",
        "//data/p.zarr",
    ],
)
def test_what_holds_none_is_shown_as_it_is(address: str) -> None:
    assert redact(address) == address
    assert secrets(address) == []


def test_what_is_known_as_secret_is_found_in_every_spelling() -> None:
    for form in FORMS:
        for secret in ("SECRETword+/=", "a long secret", "päßwörter"):
            address = form.format(quote(secret, safe=""))
            known = secrets(address)
            if form not in ("gs://{}@bucket/p.zarr", "zip://p.zarr?sig={}::https://h.example/a.zip"):
                assert quote(secret, safe="") in " ".join(known), address
                assert any(secret in each for each in known), address
    assert "container" not in " ".join(secrets("abfs://container@account.example/p.zarr"))
    assert secrets("https://h.example/p.zarr?v=1") == []


def test_addresses_in_a_librarys_words() -> None:
    for form in FORMS[:-2]:
        address = form.format("SECRETword")
        for text in (
            f"403, url='{address}'",
            f'no "{address}", sorry',
            f"see {address}.",
            f"<{address}>",
            f"at\n{address}",
        ):
            for shown in (redact_text(text), error_text(OSError(text))):
                assert "SECRETword" not in shown, shown
    assert redact_text("a::b and c://d are no secrets") == "a::b and c://d are no secrets"


def test_a_request_keeps_its_secret_to_itself(sample: Path, tmp_path: Path) -> None:
    product = open_product(sample)
    for form in FORMS:
        if form.startswith("me:"):
            continue  # a path of this machine, to whoever reads it
        address = form.format("SECRETword")
        request = request_for(replace(product, url=address), tmp_path / "o.zarr", groups=[], settings=gz.Settings())
        assert request.source == address or address.startswith("//")
        assert "SECRETword" not in json.dumps(request.to_json()) + repr(request) + request.name, address


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()
            if path.name.endswith(".tar.gz"):
                with tarfile.open(path) as archive:
                    for member in archive.getmembers():
                        file = archive.extractfile(member)
                        yield f"{path}:{member.name}", file.read() if file else b""


def test_no_file_of_a_run_holds_a_chains_password(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    with ProductServer(sample.parent) as server:
        host = server.url.removeprefix("http://")
        address = f"simplecache::http://me:SECRETword@{host}/{sample.name}"
        product = gz.inspect(address)
        assert "SECRETword" not in repr(product) + product._repr_html_() + json.dumps(product.to_dict())
        job = gz.convert(address, "out.zarr", groups=[GROUP], archive=True, verbose=True, progress=False)
        with pytest.raises(gz.GeozarrError) as raised:
            gz.inspect(f"simplecache::http://me:SECRETword@{host}/none.zarr")
    assert "SECRETword" not in f"{raised.value}{raised.value.given}"
    assert job.request.shown == f"simplecache::http://{host}/{sample.name}"
    texts = [repr(job), job._repr_html_(), *job.logs(), str(job.item().to_dict()), str(list(job.events()))]
    assert not [text for text in texts if "SECRETword" in text]
    held = [name for name, content in files_below(tmp_path) if b"SECRETword" in content]
    assert held == []
    with xr.open_zarr(tmp_path / "out.zarr", group=GROUP) as dataset:
        assert float(dataset.b02.mean()) > 0
    with pytest.raises(gz.InvalidRequest, match="held a password"):
        gz.get_job(job.name)._backend.retry(job.name)
