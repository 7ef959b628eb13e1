"""The converter's command line for every kind of product."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from geozarr_runner.converter.processes import Converters, build_argv
from geozarr_runner.events import Reporter
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds.base import ConverterCall
from geozarr_runner.kinds.profiles import profile_of
from geozarr_runner.planning.preflight import preflight
from geozarr_runner.product.model import Product
from geozarr_runner.product.reference_system import reference_system
from geozarr_runner.spec.request import Request
from runner.tests.support import R10M, R20M, R60M

GENERIC = ["--no-s2-optimized", "--no-s3-olci-optimized"]
SCENE = "S01SIWGRD_20241124T180254_0025_A324_BA27_06F516"


def argv(product: Product, *groups: str) -> list[str]:
    return build_argv("eopf-geozarr", "IN", "OUT", profile_of(product).call(product, groups))


def test_sentinel_2(s2: Path) -> None:
    product = open_product(s2)
    start = ["eopf-geozarr", "convert", "IN", "OUT", "--groups"]
    assert argv(product, R20M) == [*start, R20M, *GENERIC]
    assert argv(product, R20M, R10M) == [*start, R20M, R10M, *GENERIC]
    whole = argv(product)
    assert whole[:5] == start
    assert {R10M, R20M, R60M} <= set(whole[5:])
    assert not set(GENERIC) & set(whole)


def test_sentinel_1(s1: Path) -> None:
    product = open_product(s1)
    expected = ["eopf-geozarr", "convert", "IN", "OUT", "--groups", "measurements"]
    expected += ["--gcp-group", "conditions/gcp_of_corners", *GENERIC]
    both = [f"/{SCENE}_VH/measurements", f"/{SCENE}_VV/measurements"]
    assert argv(product, both[1]) == argv(product, *both) == argv(product) == expected
    profile = profile_of(product)
    assert profile.companions(product, both[1:]) == (f"/{SCENE}_VH/conditions/gcp", f"/{SCENE}_VV/conditions/gcp")
    assert profile.empty_groups(product) == (f"/{SCENE}_VH", f"/{SCENE}_VV")


def test_one_polarisation(s1_single: Path) -> None:
    product = open_product(s1_single)
    assert profile_of(product).empty_groups(product) == (f"/{SCENE}_VV", "/without_second_polarisation")


def test_sentinel_3(s3: Path) -> None:
    product = open_product(s3)
    assert (
        argv(product) == argv(product, "/measurements") == [*("eopf-geozarr", "convert-s3-olci-optimized", "IN", "OUT")]
    )


def test_any_other(terrain: Path, texts: Path) -> None:
    for store in (terrain, texts):
        product = open_product(store)
        expected = ["eopf-geozarr", "convert", "IN", "OUT", "--groups", "/dem", *GENERIC]
        assert argv(product) == argv(product, "/dem") == expected
        assert reference_system(product, product.groups["/dem"]).text == "EPSG:32632"


def test_options_come_last() -> None:
    call = ConverterCall(("/a",), ("--flag",))
    assert build_argv("c", "i", "o", call, {"dask_cluster": True, "verbose": True, "archive": True}) == [
        *("c", "convert", "i", "o", "--groups", "/a", "--flag", "--dask-cluster", "--verbose")
    ]
    assert build_argv("c", "i", "o", ConverterCall(())) == ["c", "convert", "i", "o"]


STRANGE = [
    "/a b",
    "/it's",
    '/say "a"',
    "/a;touch b",
    "/$(touch b)",
    "/`touch b`",
    "/a&&b",
    "/*",
    "/\n",
    "/ü",
]


def test_every_argument_arrives_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = tmp_path / "converter"
    command.write_text(f"#!{sys.executable}\nimport sys\nfor word in sys.argv[1:]: print(ascii(word))\n")
    command.chmod(0o755)
    words = build_argv(
        str(command), "https://host/a b.zarr?sig=$(x)&y='z'", "/out put.zarr", ConverterCall(tuple(STRANGE))
    )
    lines: list[str] = []
    Converters("").run([words], on_line=lines.append, on_tick=lambda: None)
    assert lines == [ascii(word) for word in words[1:]]
    assert list(tmp_path.iterdir()) == [command]


@pytest.mark.parametrize(
    ("fixture", "packed", "is_passed"), [("s2", False, True), ("s2", True, False), ("s3", False, False)]
)
def test_an_option_that_is_passed_on(
    fixture: str, packed: bool, is_passed: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source, said = request.getfixturevalue(fixture), io.StringIO()
    asked = Request.of(source, tmp_path / "out.zarr", groups=[], packed=packed, max_retries=7)
    plan = preflight(asked, Reporter(said))
    words = build_argv("c", "i", "o", plan.call, asked.options)
    assert (words[-2:] == ["--max-retries", "7"]) is is_passed
    assert ("max_retries has no effect" in said.getvalue()) is not is_passed
