"""A dataset whose variables lie in the root, as `Dataset.to_zarr` writes them, from its inspection to its picture."""

from __future__ import annotations

from pathlib import Path

import pytest

import geozarr_nb as gz
from runner.tests.test_root import SIZE, write_dataset


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    write_dataset(folder / "p.zarr", 3)
    assert gz.estimate(str(folder / "p.zarr"), groups=["/"]).requests > 0
    return Path(gz.convert(str(folder / "p.zarr"), str(folder / "out.zarr"), groups=["/"], backend="local").output)


def test_it_opens_at_each_level(output: Path) -> None:
    assert gz.open(output)["data"]["red"].shape == (SIZE, SIZE)
    assert gz.open(output, level="coarsest")["data"]["red"].shape == (SIZE // 2, SIZE // 2)


def test_it_has_a_picture(output: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    gz.preview(output, bands=["red"]).save(picture)
    assert picture.stat().st_size > 0


def test_it_can_be_inspected(output: Path) -> None:
    assert "/data" in gz.inspect(str(output)).groups
