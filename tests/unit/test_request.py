"""Requests: what is equal, what is shown and stored, what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from geozarr_nb.errors import (
    GeozarrError,
    GroupsMissing,
    InvalidRequest,
    OutputExists,
    StorageDenied,
    StorageFailed,
)
from geozarr_nb.request import check, request_for
from geozarr_nb.samples.products import sample_product
from geozarr_nb.settings import Settings
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.product.model import Product
from geozarr_runner.spec.request import Request

R60 = "/measurements/reflectance/r60m"
ADDRESS = "https://store.example/S2A_MSIL2A_20251008T100041_N0511_R122_T32TQM_20251008T122613.zarr"
SECRET = "https://reader:hunter2@store.example/S2A_MSIL2A.zarr?X-Amz-Signature=signed&part=1&sig=xyz"

Make = Callable[..., Request]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Product:
    return open_product(sample_product(tmp_path_factory.mktemp("product") / "sample.zarr", size=120))


@pytest.fixture
def make(product: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARGO_GROUPS", raising=False)

    def make(output: str | Path | None = "out.zarr", url: str | None = None, **options: object) -> Request:
        settings = options.pop("settings", Settings())
        used = replace(product, url=url) if url else product
        return request_for(used, output, settings=settings, **{"groups": [R60], **options})  # type: ignore[arg-type]

    return make


def test_what_is_left_out_comes_from_the_settings(make: Make, tmp_path: Path) -> None:
    settings = Settings(output_zarr="named.zarr", groups=R60[1:], validate_groups=True, scratch="fast")
    request = make(None, groups=None, settings=settings)
    assert (request.output, request.groups) == (str(tmp_path / "named.zarr"), (R60,))
    assert (request.validate_groups, request.scratch) == (True, str(tmp_path / "fast"))


def test_an_archive_lies_beside_a_folder_only(make: Make) -> None:
    with pytest.raises(InvalidRequest, match="leave archive out"):
        make("s3://bucket/out.zarr", archive=True)
    wanted = Settings(archive=True)
    assert make(settings=wanted).archive
    assert not make("s3://bucket/out.zarr", settings=wanted).archive, "a setting is for those that can have one"


def test_arguments_win_over_the_settings(make: Make, tmp_path: Path) -> None:
    settings = Settings(output_zarr="named.zarr", groups="a/b", validate_groups=True, scratch="fast")
    request = make("given.zarr", groups=R60, validate_groups=False, scratch="here", settings=settings)
    assert (request.output, request.groups) == (str(tmp_path / "given.zarr"), (R60,))
    assert (request.validate_groups, request.scratch) == (False, str(tmp_path / "here"))


def test_an_output_that_is_left_out_is_named_after_the_product(make: Make, tmp_path: Path) -> None:
    assert make(None).output == str(tmp_path / "sample_geozarr.zarr")


def test_a_placeholder_as_output_is_an_error_only_where_it_is_needed(make: Make) -> None:
    settings = Settings(output_zarr="<output>")
    assert make("given.zarr", settings=settings)
    with pytest.raises(InvalidRequest, match="placeholder"):
        make(None, settings=settings)


@pytest.mark.parametrize("groups", [[], "", "0", ["0"]])
def test_no_groups_mean_the_whole_product(make: Make, groups: object) -> None:
    assert make(groups=groups, settings=Settings(groups=R60)).groups == ()


@pytest.mark.parametrize(
    "groups", [R60, R60[1:], [R60, R60], f"{R60},{R60}", f" {R60[1:]}/ "], ids=["/", "bare", "twice", "comma", "blanks"]
)
def test_groups_written_otherwise_are_the_same_request(make: Make, groups: object) -> None:
    assert make(groups=groups).identity == make(groups=[R60]).identity


def test_what_does_not_change_the_result_does_not_change_the_identity(make: Make) -> None:
    other = make(
        if_exists="overwrite", validate_groups=True, verbose=True, dask_cluster=True, scratch="s", archive=True
    )
    assert other.identity == make().identity


def test_input_output_and_groups_change_the_identity(make: Make) -> None:
    requests = [make(), make("other.zarr"), make(groups=[]), make(url=ADDRESS), make(groups=[], packed=True)]
    assert len({request.identity for request in requests}) == len(requests)


def test_the_identity_knows_an_address_by_what_lasts(make: Make) -> None:
    again = "https://store.example/S2A_MSIL2A.zarr/?part=1&X-Amz-Signature=other&X-Amz-Date=now"
    another = "https://store.example/S2A_MSIL2A.zarr?part=2"
    assert make(url=SECRET).identity == make(url=again).identity != make(url=another).identity


def test_the_name_can_be_a_name_in_kubernetes(make: Make, product: Product) -> None:
    names = [
        make().name,
        request_for(replace(product, name="S2A_MSIL2A_" * 9), "o.zarr", settings=Settings()).name,
        request_for(replace(product, name="___"), "o.zarr", settings=Settings()).name,
    ]
    for name in names:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)
        assert len(name) <= 55


def test_a_request_survives_storage(make: Make) -> None:
    request = make(validate_groups=True, scratch="s", if_exists="skip", archive=True, packed=True)
    back = Request.from_json(json.loads(json.dumps(request.to_json())))
    assert back == request
    assert back.source == request.source
    assert not back.withheld


def test_a_request_of_an_earlier_version_is_read(make: Make) -> None:
    stored = make().to_json()
    del stored["archive"], stored["packed"]
    assert Request.from_json(stored) == make()


def test_what_is_secret_in_an_address_is_neither_shown_nor_stored(make: Make) -> None:
    request = make(url=SECRET)
    stored = json.dumps(request.to_json())
    for secret in ("reader", "hunter2", "signed", "xyz"):
        assert secret not in repr(request)
        assert secret not in stored
    assert request.source == SECRET
    back = Request.from_json(json.loads(stored))
    assert back.withheld
    assert (back.identity, back.shown) == (request.identity, "https://store.example/S2A_MSIL2A.zarr")


def test_a_request_that_can_run_is_let_through(make: Make, product: Product) -> None:
    assert check(make("deep/below/out.zarr"), product) is False


def _taken(tmp_path: Path) -> None:
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "out.zarr" / "zarr.json").write_text("{}")


def _folder(tmp_path: Path) -> None:
    (tmp_path / "out.zarr").mkdir()


def _file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")


def _nothing(tmp_path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("before", "options", "error"),
    [
        (_taken, {}, OutputExists),
        (_taken, {"if_exists": "skip"}, OutputExists),  # made from nothing that is known
        (_folder, {"if_exists": "overwrite"}, OutputExists),  # no Zarr store
        (_file, {"output": "file/out.zarr"}, StorageFailed),
        (_nothing, {"groups": ["r60"]}, GroupsMissing),
        (_nothing, {"groups": [R60, "nope"], "validate_groups": True}, GroupsMissing),
        (_nothing, {"output": "s3://bucket"}, InvalidRequest),
        (_nothing, {"output": "/"}, InvalidRequest),
        (_nothing, {"if_exists": "replace"}, InvalidRequest),
        (_nothing, {"groups": [3]}, InvalidRequest),
    ],
)
def test_a_request_that_cannot_run_is_refused(
    make: Make,
    product: Product,
    tmp_path: Path,
    before: Callable[[Path], None],
    options: dict[str, object],
    error: type[GeozarrError],
) -> None:
    before(tmp_path)
    with pytest.raises(error) as caught:
        check(make(**options), product)  # type: ignore[arg-type]
    assert type(caught.value) is error
    assert caught.value.remedy


@pytest.mark.parametrize("inside", ["", "measurements/out.zarr", "..", "sub/../measurements"])
def test_an_output_in_its_input_is_refused(make: Make, product: Product, inside: str) -> None:
    output = os.path.join(product.url, inside)  # noqa: PTH118  a Path would drop the '..'
    with pytest.raises(GeozarrError) as caught:
        check(make(output, if_exists="overwrite"), product)
    assert caught.value.code == "invalid-request"


def test_a_folder_without_permission_is_refused(
    make: Make, product: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and allowed(path, mode))  # root may do all
    with pytest.raises(StorageDenied, match="permission denied"):
        check(request, product)


def test_a_missing_group_is_left_out_when_another_is_there(make: Make, product: Product) -> None:
    request = make(groups=[R60, "nope"])
    assert check(request, product) is False
    assert request.groups == (R60, "/nope")


def test_a_copy_of_the_product_elsewhere_is_another_input(make: Make, product: Product, tmp_path: Path) -> None:
    copy = shutil.copytree(product.url, tmp_path / "copy.zarr")
    assert make(url=str(copy)).identity != make().identity
