from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from geozarr_nb.samples.products import SampleKind, sample_product
from geozarr_runner.errors import InvalidRequest, OutputExists

SIZE = 480
KINDS: tuple[SampleKind, ...] = ("s2-l2a", "s1-grd", "s3-olci")
BANDS = "measurements/reflectance"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("samples")
    return {kind: sample_product(folder / f"{kind}.zarr", SIZE, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def s2(stores: dict[str, Path]) -> zarr.Group:
    return zarr.open_group(stores["s2-l2a"], mode="r", zarr_format=2)


def pixels(group: zarr.Group, path: str) -> np.ndarray[Any, Any]:
    array = group[path]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[...])


def digest(store: Path) -> dict[str, str]:
    return {
        str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(store.rglob("*"))
        if file.is_file()
    }


def metadata(store: Path) -> dict[str, Any]:
    documents = json.loads((store / ".zmetadata").read_text())["metadata"]
    assert isinstance(documents, dict)
    return documents


def real_metadata(kind: str) -> dict[str, Any]:
    """Flatten a packaged structure the way `.zmetadata` does."""
    from geozarr_nb.samples.structure import is_array, load, walk

    documents: dict[str, Any] = {}
    for path, node in walk(load(kind)):
        prefix = f"{path}/" if path else ""
        documents[prefix + ".zattrs"] = node.get("attributes") or {}
        documents[prefix + (".zarray" if is_array(node) else ".zgroup")] = node
    return documents


@pytest.mark.parametrize("kind", ["s2-l2a", "s1-grd"])
def test_structure_is_the_real_products(stores: dict[str, Path], kind: str) -> None:
    sample, real = metadata(stores[kind]), real_metadata(kind)
    assert sample.keys() == real.keys()
    for path, document in sample.items():
        if path.endswith(".zarray"):
            for key in ("dtype", "compressor", "fill_value", "filters", "order", "dimension_separator"):
                assert document[key] == real[path][key], (path, key)
            assert len(document["shape"]) == len(real[path]["shape"])
        elif path.endswith(".zattrs"):
            assert document.keys() == real[path].keys(), path
            assert document.get("_ARRAY_DIMENSIONS") == real[path].get("_ARRAY_DIMENSIONS")
            for key in ("scale_factor", "add_offset", "valid_min", "long_name", "units", "proj:epsg", "proj:transform"):
                assert document.get(key) == real[path].get(key), (path, key)


def test_full_tile_has_the_real_structure_unchanged() -> None:
    from geozarr_nb.samples import sentinel2
    from geozarr_nb.samples.structure import load

    sample, real = sentinel2.structure(10980), load("s2-l2a")
    assert sample["members"] == real["members"]
    assert sample["attributes"]["other_metadata"] == real["attributes"]["other_metadata"]
    assert sample["attributes"]["stac_discovery"]["id"] == real["attributes"]["stac_discovery"]["id"]
    assert sample["attributes"]["stac_discovery"]["geometry"] == real["attributes"]["stac_discovery"]["geometry"]


def test_full_scene_has_the_real_structure_unchanged() -> None:
    from geozarr_nb.samples import sentinel1
    from geozarr_nb.samples.structure import load

    assert sentinel1.structure(26064) == load("s1-grd")


def test_sizes_and_georeference_scale_together(s2: zarr.Group) -> None:
    for resolution, factor in (("r10m", 1), ("r20m", 2), ("r60m", 6)):
        band = s2[f"{BANDS}/{resolution}/b02"]
        assert isinstance(band, zarr.Array)
        edge, pixel = SIZE // factor, 10 * factor
        assert band.shape == (edge, edge)
        assert band.attrs["proj:shape"] == [edge, edge]
        assert band.attrs["proj:bbox"] == [699960.0, 4700040.0 - 10 * SIZE, 699960.0 + 10 * SIZE, 4700040.0]
        x, y = pixels(s2, f"{BANDS}/{resolution}/x"), pixels(s2, f"{BANDS}/{resolution}/y")
        assert x[0] - pixel // 2 == 699960
        assert y[0] + pixel // 2 == 4700040
        assert set(np.diff(x)) == {pixel}
        assert set(np.diff(y)) == {-pixel}
    band = s2[f"{BANDS}/r10m/b02"]
    assert isinstance(band, zarr.Array)
    assert band.chunks == (SIZE // 2, SIZE // 2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_chunk_is_stored(stores: dict[str, Path], kind: str) -> None:
    for path, document in metadata(stores[kind]).items():
        if not path.endswith(".zarray"):
            continue
        expected = int(np.prod([-(-n // c) for n, c in zip(document["shape"], document["chunks"], strict=True)]))
        folder = (stores[kind] / path).parent
        assert sum(not file.name.startswith(".") for file in folder.iterdir()) == expected, path


@pytest.mark.parametrize("kind", KINDS)
def test_opens_with_xarray_from_consolidated_metadata(stores: dict[str, Path], kind: str) -> None:
    with xr.open_datatree(stores[kind], engine="zarr", consolidated=True) as tree:
        assert len(tree.groups) > 5
        for node in tree.subtree:
            node.to_dataset().load()


def test_reflectances_are_plausible(stores: dict[str, Path]) -> None:
    with xr.open_datatree(stores["s2-l2a"], engine="zarr") as tree:
        bands = tree[f"{BANDS}/r10m"].to_dataset().load()
        scene = tree["conditions/mask/l2a_classification/r20m/scl"].load()
    for name in ("b02", "b03", "b04", "b08"):
        band = bands[name]
        assert 0.01 < float(band.isnull().mean()) < 0.1
        assert float(band.min()) > -0.05
        assert 0.3 < float(band.max()) < 1.2
        assert 0.03 < float(band.median()) < 0.4
    index = ((bands.b08 - bands.b04) / (bands.b08 + bands.b04)).coarsen(x=2, y=2).mean()
    medians = {number: float(index.where(scene == number).median()) for number in (4, 5, 6)}
    assert medians[4] > 0.6 > medians[5] > 0.05 > medians[6]  # vegetation, bare, water
    assert set(np.unique(scene)) >= {0, 3, 4, 5, 6, 8, 9, 11}


def test_resolutions_agree(s2: zarr.Group) -> None:
    for band in ("b02", "b03", "b04"):
        fine, middle, coarse = (pixels(s2, f"{BANDS}/{r}/{band}").astype(float) for r in ("r10m", "r20m", "r60m"))
        for finer, coarser, factor in ((fine, middle, 2), (middle, coarse, 3)):
            squares = finer.reshape(coarser.shape[0], factor, coarser.shape[1], factor)
            has_data = squares.min(axis=(1, 3)) > 0
            np.testing.assert_array_equal(coarser > 0, has_data)
            assert np.abs(squares.mean(axis=(1, 3)) - coarser)[has_data].max() <= 0.5


def test_masks_agree_with_the_bands(s2: zarr.Group) -> None:
    nodata = pixels(s2, f"{BANDS}/r10m/b03") == 0
    assert nodata[-1, -1]
    assert not nodata[0, 0]
    np.testing.assert_array_equal(pixels(s2, "quality/mask/r10m/b03") == 32, nodata)
    np.testing.assert_array_equal(pixels(s2, "conditions/mask/detector_footprint/r10m/b03") == 0, nodata)
    np.testing.assert_array_equal(pixels(s2, "quality/l2a_quicklook/r10m/tci")[1] == 0, nodata)
    scene = pixels(s2, "conditions/mask/l2a_classification/r20m/scl")
    cloud = pixels(s2, "quality/probability/r20m/cld")
    np.testing.assert_array_equal(scene == 0, pixels(s2, f"{BANDS}/r20m/b05") == 0)
    assert cloud[scene == 9].min() > 50 > cloud[scene == 4].max()
    for name, low, high in (("aot", 30, 130), ("wvp", 800, 2400)):
        values = pixels(s2, f"quality/atmosphere/r10m/{name}")[~nodata]
        assert low < values.min() < values.max() < high


def test_ground_control_points_agree_with_the_footprint(stores: dict[str, Path]) -> None:
    group = zarr.open_group(stores["s1-grd"], mode="r", zarr_format=2)
    item = dict(group.attrs)["stac_discovery"]
    assert isinstance(item, dict)
    east, south, west, north = item["bbox"]
    for name in ("VV", "VH"):
        prefix = next(key for key in group.group_keys() if key.endswith(name))
        image = group[f"{prefix}/measurements/grd"]
        assert isinstance(image, zarr.Array)
        line, pixel = pixels(group, f"{prefix}/conditions/gcp/line"), pixels(group, f"{prefix}/conditions/gcp/pixel")
        assert (line[0], pixel[0]) == (0, 0)
        assert (line[-1] + 1, pixel[-1] + 1) == image.shape
        longitude = pixels(group, f"{prefix}/conditions/gcp/longitude")
        latitude = pixels(group, f"{prefix}/conditions/gcp/latitude")
        assert (longitude.min(), longitude.max()) == pytest.approx((west, east))
        assert (latitude.min(), latitude.max()) == pytest.approx((south, north))
        assert (np.diff(longitude, axis=1) > 0).all()
        assert (np.diff(latitude, axis=0) > 0).all()
        numbers = pixels(group, f"{prefix}/measurements/grd")
        dark, bright = np.percentile(numbers, (2, 99))
        assert bright > 5 * dark > 0


def test_olci_radiances_fall_towards_the_infrared(stores: dict[str, Path]) -> None:
    with xr.open_datatree(stores["s3-olci"], engine="zarr") as tree:
        bands = tree["measurements"].to_dataset().load()
        medians = [float(bands[f"oa{number:02d}_radiance"].median()) for number in (4, 8, 13, 17)]
        assert 30 < medians[0] < 120
        assert medians[2] < medians[3]  # the oxygen band is darker than what lies beyond it
        assert 0.005 < float(bands.oa08_radiance.isnull().mean()) < 0.2
        assert float(bands.latitude.min()) > 30


@pytest.mark.parametrize(("kind", "size"), [("s2-l2a", 240), ("s1-grd", 201), ("s3-olci", 121)])
def test_same_arguments_same_bytes(tmp_path: Path, kind: SampleKind, size: int) -> None:
    first, second = (digest(sample_product(tmp_path / name, size, kind)) for name in ("a.zarr", "b.zarr"))
    assert first == second


def test_blocks_of_several_rows_are_seamless() -> None:
    """Broad shapes do not depend on how the picture is cut into blocks."""
    from geozarr_nb.samples.landscape import Landscape

    landscape = Landscape(240)
    whole = landscape.block(slice(0, 240), slice(0, 240))
    part = landscape.block(slice(120, 240), slice(60, 180))
    np.testing.assert_array_equal(part.light, whole.light[120:, 60:180])
    np.testing.assert_array_equal(part.shadow, whole.shadow[120:, 60:180])


@pytest.mark.parametrize(
    ("size", "kind", "remedy"),
    [
        (1000, "s2-l2a", "size=996"),
        (0, "s2-l2a", "size=120"),
        (20000, "s2-l2a", "size=10980"),
        (1080.5, "s2-l2a", "size=1080"),
        (100, "s1-grd", "size=200"),
        (5000, "s3-olci", "size=4865"),
        (1080, "s2-l1c", "s2-l2a, s1-grd, s3-olci"),
    ],
)
def test_wrong_arguments_say_what_to_type(tmp_path: Path, size: Any, kind: Any, remedy: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        sample_product(tmp_path / "a.zarr", size, kind)
    assert remedy in error.value.remedy
    assert error.value.code == "invalid-request"
    assert list(tmp_path.iterdir()) == []


def test_an_existing_store_is_replaced_only_when_asked(tmp_path: Path) -> None:
    target = sample_product(tmp_path / "a.zarr", 120)
    (target / "mark").touch()
    with pytest.raises(OutputExists, match="overwrite=True"):
        sample_product(target, 120)
    assert (target / "mark").exists()
    assert sample_product(target, 120, overwrite=True) == target
    assert not (target / "mark").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]


def test_nothing_but_a_store_is_ever_replaced(tmp_path: Path) -> None:
    folder, file, link = tmp_path / "thesis", tmp_path / "notes.txt", tmp_path / "link"
    folder.mkdir()
    (folder / "chapter").write_text("1")
    file.write_text("2")
    link.symlink_to(sample_product(tmp_path / "a.zarr", 120))
    for target in (folder, file, link):
        with pytest.raises(OutputExists, match="never replaced"):
            sample_product(target, 120, overwrite=True)
    assert (folder / "chapter").read_text() == "1"
    assert file.read_text() == "2"
    assert link.is_symlink()


def test_an_interrupted_sample_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from geozarr_nb.samples import sentinel2

    old = sample_product(tmp_path / "a.zarr", 120)
    before = digest(old)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sentinel2, "_masks", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sample_product(old, 120, overwrite=True)
    assert digest(old) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]


def test_import_is_light() -> None:
    code = "import geozarr_nb.samples.products, sys; print(sorted({'numpy', 'zarr', 'xarray'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def convert(product: Path, output: Path, *flags: str) -> str:
    command = [str(Path(sys.executable).with_name("eopf-geozarr")), "convert", str(product), str(output), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-4000:]
    return log


def test_converter_recognises_sentinel_2(stores: dict[str, Path], tmp_path: Path) -> None:
    log = convert(stores["s2-l2a"], tmp_path / "out.zarr")
    assert "Detected Sentinel-2 input" in log
    with xr.open_datatree(tmp_path / "out.zarr", engine="zarr", chunks=None) as tree:
        band = tree["measurements/reflectance/r20m/b05"]
        assert band.shape == (SIZE // 2, SIZE // 2)
        with xr.open_datatree(stores["s2-l2a"], engine="zarr", chunks=None) as source:
            np.testing.assert_allclose(band, source["measurements/reflectance/r20m/b05"], atol=1e-4)


def test_converter_projects_sentinel_1(stores: dict[str, Path], tmp_path: Path) -> None:
    convert(stores["s1-grd"], tmp_path / "out.zarr", "--groups", "measurements", "--gcp-group", "conditions/gcp")
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    name = next(key for key in group.group_keys() if key.endswith("VV"))
    image = next(array for path, array in group[name].members(None) if path.endswith("/grd"))  # type: ignore[union-attr]
    assert isinstance(image, zarr.Array)
    values = np.asarray(image[...])
    seen = values[(values > 0) & (values < 65535)]
    assert seen.size > values.size / 2
    assert np.percentile(seen, 99) > 5 * np.percentile(seen, 2)


def test_converter_recognises_olci(stores: dict[str, Path], tmp_path: Path) -> None:
    assert "Detected Sentinel-3 OLCI" in convert(stores["s3-olci"], tmp_path / "out.zarr")
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert "measurements/r0/oa08_radiance" in group
