"""Which groups are wanted is said by whoever asks: a variable of the place where it runs adds none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import geozarr_nb as gz
from geozarr_nb.backends.argo.workflow import manifest
from geozarr_nb.cli import main as sdk_main
from geozarr_nb.errors import InvalidRequest, OutputExists
from geozarr_nb.request import check, request_for
from geozarr_nb.samples.products import sample_product
from geozarr_nb.settings import Settings
from geozarr_runner.cli import main
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.planning.preflight import is_done
from geozarr_runner.product.model import Product
from geozarr_runner.spec.request import Request, normalise

R10, R20, R60 = (f"/measurements/reflectance/r{size}m" for size in (10, 20, 60))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_product(tmp_path_factory.mktemp("product") / "sample.zarr", size=120)


@pytest.fixture(scope="module")
def product(path: Path) -> Product:
    return open_product(path)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARGO_GROUPS", R20)


@pytest.mark.parametrize("groups", [[], "", "0", ["0"], (), "[]"])
def test_the_whole_product_is_the_whole_product(product: Product, groups: Any) -> None:
    assert gz.validate(product, groups).wanted == ()
    request = request_for(product, "out.zarr", groups=groups, settings=Settings(groups=R60))
    assert request.groups == ()
    assert check(request, product) is False
    assert gz.estimate(product, groups) == gz.estimate(product, [])
    assert gz.estimate(product, groups).output_bytes > gz.estimate(product, R60).output_bytes


def test_none_is_what_the_settings_say(product: Product) -> None:
    assert request_for(product, "out.zarr", settings=Settings(groups=R60)).groups == (R60,)
    assert request_for(product, "out.zarr", settings=Settings(groups="")).groups == ()
    assert request_for(product, "out.zarr", settings=Settings(groups="0")).groups == ()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], [R20]),
        (["--groups", "0"], [R20]),
        (["--groups="], [R20]),
        (["--groups", "[]"], []),
        (["--groups", R60], [R60]),
        (["--groups", f'["{R60}", "{R10[1:]}"]'], [R60, R10]),
        (["--groups", f"{R60},{R10}", R20], [R60, R10, R20]),
    ],
)
def test_only_the_runners_command_line_falls_back(
    path: Path, capsys: pytest.CaptureFixture[str], words: list[str], wanted: list[str]
) -> None:
    assert main(["inspect", str(path), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"]["wanted"] == wanted


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (['["surface reflectance, 10 m", "höhe"]'], ["/surface reflectance, 10 m", "/höhe"]),
        (['["a b"]', "c,d", "e f"], ["/a b", "/c", "/d", "/e", "/f"]),
        (["0"], []),
        (["[]"], []),
    ],
)
def test_both_command_lines_read_the_same_names(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], wanted: list[str]
) -> None:
    sdk_main(["validate", str(path), "--json", "--groups", *words])
    assert json.loads(capsys.readouterr().out)["wanted"] == wanted
    monkeypatch.delenv("ARGO_GROUPS")
    main(["inspect", str(path), "--json", "--groups", *words])
    assert json.loads(capsys.readouterr().out)["report"]["wanted"] == wanted


def converted(path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Return the code of the error that a run ends with, where its output's place is taken."""
    Path("taken").write_text("")
    main(["convert", str(path), "taken", *arguments])
    return str(json.loads(capsys.readouterr().out.splitlines()[-1])["code"])


def test_what_this_sdk_submits_falls_back_nowhere(
    path: Path, product: Product, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a pod, whose Secret may hold the variable, `groups` is "0" for the whole product, as ever."""
    monkeypatch.setenv("ARGO_GROUPS", "/nowhere")
    request = request_for(product, "s3://bucket/out.zarr", groups=[], settings=Settings())
    pods = replace(request, source="s3://b/p", shown="s3://b/p")
    workflow = manifest(pods, "j", 1, Settings(), 0)
    given = {entry["name"]: entry["value"] for entry in workflow["spec"]["arguments"]["parameters"]}
    assert given["groups"] == "0"
    sent = [f"--groups={given['groups']}", f"--identity={given['identity']}"]
    assert converted(path, capsys, sent) == "output-exists", "the whole product would have been converted"
    for by_hand in (["--groups=0", "--identity="], ["--groups=0"], ["--identity=my-run"], []):
        assert converted(path, capsys, by_hand) == "groups-missing"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ('["a", "b/c"]', ("/a", "/b/c")),
        (' [ "a" ] ', ("/a",)),
        ("[]", ()),
        ("[a", ("/[a",)),
        ("[1]", ("/[1]",)),
        ("[" * 100_000, ("/" + "[" * 100_000,)),
    ],
    ids=range(6),
)
def test_a_text_may_be_an_array(typed: str, meant: tuple[str, ...]) -> None:
    assert normalise(typed) == meant


def record(product: Product, **changes: Any) -> dict[str, Any]:
    return {"schema": 1, "input": {"identity": product.identity, "url": "u"}, "groups": [R10, R60], **changes}


SKIP = Request(source="p", shown="p", product="p", output="o", options={"if_exists": "skip"})


class TestSkip:
    """What is there already is told by its record, which anybody may have written."""

    def test_the_order_of_groups_makes_no_other_output(self, product: Product) -> None:
        for groups in ((R10, R60), (R60, R10)):
            assert is_done("out", record(product), product, groups, SKIP)
        one = request_for(product, "out.zarr", groups=[R10, R60], settings=Settings())
        other = request_for(product, "out.zarr", groups=[R60, R10], settings=Settings())
        assert one.identity == other.identity

    @pytest.mark.parametrize("groups", [(R10,), (R10, R60, R20), ()])
    def test_other_groups_do(self, product: Product, groups: tuple[str, ...]) -> None:
        with pytest.raises(OutputExists, match="another request"):
            is_done("out", record(product), product, groups, SKIP)

    @pytest.mark.parametrize(
        "changes",
        [
            *({"input": odd} for odd in (None, "x", [], 7)),
            *({"groups": odd} for odd in (None, "x", 7, [[]], [{}], {"a": 1})),
            {"groups": [R10, R60], "input": {"identity": ["x"]}},
            {"input": {"identity": None, "url": "\x1b[2J"}},
        ],
    )
    def test_a_record_that_is_none_is_of_another_request(self, product: Product, changes: dict[str, Any]) -> None:
        with pytest.raises(OutputExists, match="another request") as caught:
            is_done("out", record(product, **changes), product, (R10, R60), SKIP)
        assert "\x1b" not in str(caught.value)

    def test_a_record_of_a_later_version_says_so(self, product: Product) -> None:
        with pytest.raises(OutputExists, match="later version") as caught:
            is_done("out", record(product, schema=2), product, (R10, R60), SKIP)
        assert "pip install -U geozarr-nb" in caught.value.remedy
        assert (
            is_done("out", record(product, schema=2), product, (R10, R60), SKIP.with_options(if_exists="overwrite"))
            is False
        )


def test_numbers_are_no_groups() -> None:
    with pytest.raises(InvalidRequest):
        normalise([1])  # type: ignore[list-item]
