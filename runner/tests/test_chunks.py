"""Outputs that are stored for the web: small chunks, many of them in one object."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from geozarr_runner.errors import InvalidRequest, OutputExists, VerificationFailed
from geozarr_runner.events import Reporter
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.kinds.layout import WEB_CHUNK
from geozarr_runner.kinds.profiles import planned_arrays
from geozarr_runner.planning.estimate import estimate
from geozarr_runner.planning.preflight import preflight
from geozarr_runner.publishing.root_document import provenance
from geozarr_runner.run import run
from geozarr_runner.spec.options import resolved
from geozarr_runner.spec.request import Request
from geozarr_runner.verification.verify import verify
from runner.tests.support import R10M, R20M

CASES = {"groups": [R10M, R20M], "whole": []}
WEB = resolved({"chunks": "web"})


@dataclass(frozen=True)
class Made:
    output: Path
    events: list[dict[str, object]]

    def arrays(self) -> dict[str, zarr.Array]:
        """Return every array over y and x."""
        root = zarr.open_group(self.output, mode="r")
        members = root.members(max_depth=None)
        return {f"/{path}": one for path, one in members if isinstance(one, zarr.Array) and one.ndim >= 2}


def convert(product: Path, output: Path, **options: object) -> Made:
    said = io.StringIO()
    with closing(Reporter(said)) as reporter:
        run(Request.of(product, output, **options), reporter)  # type: ignore[arg-type]
    return Made(output, [json.loads(line) for line in said.getvalue().splitlines()])


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def web(case: str, s2: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return convert(s2, tmp_path_factory.mktemp("web") / "out.zarr", groups=CASES[case], chunks="web")


def test_chunks_are_small_and_lie_in_shards(web: Made) -> None:
    arrays = web.arrays()
    assert any(array.shards and array.shards != array.chunks for array in arrays.values())
    for path, array in arrays.items():
        assert array.shards is not None, path
        assert max(array.chunks) <= WEB_CHUNK, path


def test_a_reader_sees_the_same_values(case: str, web: Made, s2: Path, tmp_path: Path) -> None:
    plain = convert(s2, tmp_path / "plain.zarr", groups=CASES[case])
    assert web.arrays().keys() == plain.arrays().keys()
    for group in (R10M, R20M):
        one, other = (xr.open_dataset(made.output, group=group, engine="zarr") for made in (web, plain))
        xr.testing.assert_equal(one, other)


def test_what_will_be_written_is_known(case: str, web: Made, s2: Path) -> None:
    product = open_product(s2)
    expected = planned_arrays(product, tuple(CASES[case]), WEB)
    assert expected is not None
    stored = {f"{path.rpartition('/')[2]}{array.shape}": array for path, array in web.arrays().items()}
    for one in (one for one in expected if len(one.shape) >= 2):
        found = stored[f"{one.source.name}{one.shape}"]
        most = [-(-size // edge) for size, edge in zip(found.shape, found.shards or found.chunks, strict=True)]
        assert one.objects == np.prod(most), one
    progress = [event for event in web.events if event["type"] == "progress" and event["stage"] == "convert"]
    total = sum(one.objects for one in expected)
    assert (progress[-1]["done"], progress[-1]["total"]) == (total, total)
    size = sum(file.stat().st_size for file in web.output.rglob("c/**/*") if file.is_file())
    assert estimate(product, CASES[case], chunks="web").output_bytes == pytest.approx(size, rel=0.3)


def test_it_is_part_of_the_result(case: str, web: Made, s2: Path) -> None:
    record = provenance(web.output)
    assert record is not None
    assert record["options"] == {"packed": False, "chunks": "web"}
    item = json.loads(Path(f"{web.output}.stac.json").read_text())
    assert item["properties"]["processing:expression"]["expression"]["options"] == {"chunks": "web"}
    reporter = Reporter(io.StringIO())
    again = Request.of(s2, web.output, groups=CASES[case], if_exists="skip")
    with pytest.raises(OutputExists, match="another request") as caught:
        preflight(again, reporter)
    assert "chunks='web'" in str(caught.value)
    assert preflight(again.with_options(chunks="web"), reporter).done


@pytest.mark.parametrize("lost", [1, 100, 0.5])
def test_a_shard_that_is_cut_off_is_found(case: str, web: Made, s2: Path, tmp_path: Path, lost: float) -> None:
    broken = Path(shutil.copytree(web.output, tmp_path / "broken.zarr"))
    plan = preflight(Request.of(s2, tmp_path / "o.zarr", groups=CASES[case], chunks="web"), Reporter(io.StringIO()))
    verify(plan, str(s2), broken, lambda *_: None)
    shard = next(file for file in (broken / R10M[1:] / "b02").rglob("*") if file.is_file() and file.name != "zarr.json")
    content = shard.read_bytes()
    shard.write_bytes(content[: -lost if isinstance(lost, int) else int(len(content) * lost)])
    with pytest.raises(VerificationFailed, match="cut off"):
        verify(plan, str(s2), broken, lambda *_: None)


def test_olci_has_chunks_of_its_own(s3: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="chunks of its own for Sentinel-3 OLCI") as caught:
        preflight(Request.of(s3, tmp_path / "out.zarr", groups=[], chunks="web"), Reporter(io.StringIO()))
    assert caught.value.remedy == "leave chunks out"
    assert not list(tmp_path.iterdir())


def test_radar_is_stored_for_the_web_too(s1: Path, tmp_path: Path) -> None:
    made = convert(s1, tmp_path / "out.zarr", groups=[], chunks="web")
    sizes = [array.chunks for path, array in made.arrays().items() if path.endswith("grd")]
    assert sizes
    assert max(map(max, sizes)) <= WEB_CHUNK
