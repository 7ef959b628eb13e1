"""Integers with a scale that stay what they are."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from geozarr_runner.converter import parallel
from geozarr_runner.errors import InvalidRequest, OutputExists
from geozarr_runner.events import Reporter
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.planning import resources
from geozarr_runner.planning.estimate import estimate
from geozarr_runner.planning.preflight import preflight
from geozarr_runner.publishing.root_document import provenance
from geozarr_runner.run import Result, folder_bytes, run
from geozarr_runner.spec.request import Request
from runner.tests.support import R10M, R20M, contents


def convert(product: Path, output: Path, **options: object) -> Result:
    with closing(Reporter(io.StringIO())) as reporter:
        return run(Request.of(product, output, **options), reporter)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def outputs(s2: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The whole product, packed and not."""
    folder = tmp_path_factory.mktemp("outputs")
    made = {packed: folder / f"{packed}.zarr" for packed in (True, False)}
    for packed, output in made.items():
        convert(s2, output, groups=[], packed=packed)
    return made


def test_readers_see_the_same_values_in_much_less_space(outputs: dict[bool, Path]) -> None:
    for group, off in ((R10M, 1e-6), (R20M, 0.51e-4), ("/quality/mask/r20m", 0)):
        # b08 of 20 m is averaged, and rounded to the digits that are kept.
        packed, plain = (xr.open_dataset(outputs[key], group=group, engine="zarr") for key in (True, False))
        assert packed.sizes == plain.sizes
        for name in plain.data_vars:
            np.testing.assert_allclose(packed[name], plain[name], atol=off, rtol=0)
    raw = xr.open_dataset(outputs[True], group=R10M, engine="zarr", mask_and_scale=False)
    assert {str(raw[band].dtype) for band in ("b02", "b03", "b04", "b08")} == {"uint16"}
    assert folder_bytes(outputs[True]) < 0.6 * folder_bytes(outputs[False]), "of a sample; 0.39 of a full tile"


def test_coarser_levels_have_zero_for_no_data_and_that_is_said(
    s2: Path, outputs: dict[bool, Path], tmp_path: Path
) -> None:
    """What the converter does; when it no longer does, the warning is to go."""
    group = "/measurements/reflectance/r120m"
    packed, plain = (xr.open_dataset(outputs[key], group=group, engine="zarr") for key in (True, False))
    empty = np.isnan(plain["b02"].values)
    assert empty.any()
    assert not packed["b02"].values[empty].any()
    np.testing.assert_allclose(packed["b02"].values[~empty], plain["b02"].values[~empty], atol=0.51e-4, rtol=0)
    said = io.StringIO()
    for wanted in (False, True):
        preflight(Request.of(s2, tmp_path / "out.zarr", groups=[], packed=wanted), Reporter(said))
        assert ("zero-for-no-data" in said.getvalue()) == wanted


def test_the_estimate_says_what_each_choice_costs(s2: Path, outputs: dict[bool, Path]) -> None:
    product = open_product(s2)
    plain, packed = estimate(product, []), estimate(product, [], packed=True)
    assert plain.packed_bytes == packed.packed_bytes == packed.output_bytes
    assert "with packed=True" in repr(plain)
    assert "with packed=True" not in repr(packed)
    data = sum(file.stat().st_size for file in outputs[True].rglob("c/**/*") if file.is_file())
    assert packed.output_bytes == pytest.approx(data, rel=0.15)
    assert estimate(product, [R20M]).packed_bytes is None


def test_an_output_of_the_other_kind_is_another_one(s2: Path, outputs: dict[bool, Path]) -> None:
    assert (provenance(outputs[True]) or {})["packed"] is True
    for kind, output in outputs.items():
        assert convert(s2, output, groups=[], packed=kind, if_exists="skip").skipped
        with pytest.raises(OutputExists, match="made from another request"):
            convert(s2, output, groups=[], packed=not kind, if_exists="skip")


def test_divided_it_is_the_same(
    s2: Path, outputs: dict[bool, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "PIXELS_WORTH_A_CONVERTER", 1)
    monkeypatch.setattr(resources, "cores", lambda: 4)
    convert(s2, tmp_path / "parts.zarr", groups=[], packed=True)
    assert contents(tmp_path / "parts.zarr") == contents(outputs[True])


@pytest.mark.parametrize(
    ("kind", "groups", "why"),
    [
        ("s2", [R20M], r"of whole Sentinel-2 products only(.|\n)*groups=\[\] for the whole product"),
        ("s1", [], "of Sentinel-2 products only(.|\n)*leave packed out$"),
        ("s3", [], "keeps packed integers anyway(.|\n)*leave packed out$"),
        ("terrain", ["/dem"], "of Sentinel-2 products only"),
    ],
)
def test_where_it_cannot_be_it_is_refused_before_anything_is_read(
    kind: str, groups: list[str], why: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    product = request.getfixturevalue(kind)
    with pytest.raises(InvalidRequest, match=why):
        convert(product, tmp_path / "out.zarr", groups=groups, packed=True)
    with pytest.raises(InvalidRequest, match=why):
        estimate(open_product(product), groups, packed=True)
    assert list(tmp_path.iterdir()) == []
