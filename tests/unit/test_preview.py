"""Pictures show the right bands, upright, transparent where there is nothing, and read no more than they need."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr
from PIL import Image

from geozarr_nb.outputs import open as result
from geozarr_nb.outputs.preview import Preview, preview
from geozarr_runner.errors import InvalidRequest, StorageFailed

if TYPE_CHECKING:
    from tests.unit.conftest import Outputs

R10M = "/measurements/reflectance/r10m"


def write_output(path: Path, datasets: dict[str, xr.Dataset]) -> Path:
    """Write groups as the converter would, each multiscale with a native level alone."""
    zarr.open_group(path, mode="w", zarr_format=3)
    for group, dataset in datasets.items():
        marks = {"multiscales": {"layout": [{"asset": "."}]}, "zarr_conventions": [{"name": "multiscales"}]}
        dataset.assign_attrs(marks).to_zarr(path, group=group, mode="a", zarr_format=3, consolidated=False)
    return path


def grid(values: np.ndarray[Any, Any], *, y: Any = None, x: Any = None, name: str = "b") -> xr.Dataset:
    rows, columns = values.shape
    coordinates = {
        "y": np.arange(rows)[::-1] * 10 if y is None else y,
        "x": np.arange(columns) * 10 if x is None else x,
    }
    return xr.Dataset({name: (("y", "x"), values)}, coords=coordinates)


def greys(picture: Preview) -> np.ndarray[Any, Any]:
    return picture.pixels[..., 0]


def test_true_colour_of_the_finest_group(outputs: Outputs) -> None:
    picture = preview(outputs.chosen)
    assert (picture.group, picture.bands, picture.level) == (R10M, ("b04", "b03", "b02"), 0)
    assert picture.size == (480, 480)
    # The scene is green and brown land with some white: each colour is used in full, none prevails.
    opaque = picture.pixels[picture.pixels[..., 3] == 255]
    assert opaque[:, :3].min() == 0
    assert opaque[:, :3].max() == 255
    assert 60 < opaque[:, :3].mean() < 160


def test_pixels_are_the_stretched_values(outputs: Outputs) -> None:
    picture = preview(outputs.chosen, bands="b08", level="native")
    values = result.open(outputs.chosen)[R10M]["b08"].values
    valid = np.isfinite(values)
    low, high = np.percentile(values[valid], (2, 98))
    assert picture.ranges[0] == pytest.approx((low, high), rel=1e-5)
    expected = np.clip((values[valid] - low) / (high - low), 0, 1) ** picture.gamma * 255
    assert np.abs(greys(picture)[valid].astype(float) - expected).max() <= 1
    assert (picture.pixels[..., 0] == picture.pixels[..., 2]).all()


@pytest.mark.parametrize("level", ["native", 1, 2])
def test_no_data_is_transparent(outputs: Outputs, level: Any) -> None:
    for output, bands in ((outputs.chosen, None), (outputs.whole, None), (outputs.radar, None)):
        if output is outputs.radar and level == 2:
            continue
        alpha = preview(output, bands=bands, level=level).pixels[..., 3]
        assert 0.005 < (alpha == 0).mean() < 0.5


def test_bands_that_the_converter_averages_have_their_no_data_back(outputs: Outputs) -> None:
    stored = result.open(outputs.whole, level=1)["measurements/reflectance/r20m/b08"]
    assert not stored.isnull().any(), "the converter writes 0 there; when it no longer does, preview need not care"
    assert (preview(outputs.whole, bands="b08", level=1).pixels[..., 3] == 0).any()


@pytest.mark.parametrize(
    ("level", "size", "number", "pixels"),
    [
        ("auto", None, 0, 480),
        ("auto", 100, 2, 100),
        ("auto", 200, 1, 200),
        ("coarsest", None, 3, 60),
        (2, None, 2, 120),
    ],
)
def test_level_has_just_enough_pixels(outputs: Outputs, level: Any, size: int | None, number: int, pixels: int) -> None:
    picture = preview(outputs.chosen, level=level, size=size)
    assert (picture.level, picture.size) == (number, (pixels, pixels))


def test_levels_side_by_side(outputs: Outputs) -> None:
    assert preview(outputs.whole, level=1).size == (240, 240)
    # r10m has no b05; the finest that has it is level 1.
    assert preview(outputs.whole, bands=("b08", "b05", "b04"), level="native").level == 1


def test_only_the_chosen_bands_of_the_chosen_level_are_read(outputs: Outputs, read: list[str]) -> None:
    preview(outputs.whole, level=2)
    chunks = sorted(key for key in read if "/c/" in key or key.endswith("/c"))
    group = "measurements/reflectance/r60m"
    bands = [f"{group}/{band}/c/0/0" for band in ("b02", "b03", "b04")]
    assert chunks == [*bands, f"{group}/x/c/0", f"{group}/y/c/0"]


def test_radar_is_a_composite_in_decibel(outputs: Outputs) -> None:
    picture = preview(outputs.radar)
    assert picture.bands == ("vv", "vh", "vv/vh")
    assert picture.unit == "dB"
    assert picture.gamma == 1
    tree = result.open(outputs.radar)
    group = next(path for path in tree.groups if path.endswith("VV/measurements"))
    decibel = 20 * np.log10(tree[group]["grd"].values)
    single = preview(outputs.radar, bands="vv", level="native")
    assert single.group == group
    assert single.ranges[0] == pytest.approx(np.nanpercentile(decibel, (2, 98)), rel=1e-4)


def test_overview_of_radar_has_no_border_of_missing_values(outputs: Outputs) -> None:
    native, overview = (preview(outputs.radar, bands="vv", level=level) for level in ("native", 1))
    assert overview.level == 1
    assert overview.ranges[0][1] < native.ranges[0][1] + 3, "65535 is the missing value, not a very bright target"


def test_distances_on_the_ground_are_equal(outputs: Outputs) -> None:
    grd = next(node for path, node in result.open(outputs.radar).to_dict().items() if path.endswith("VV/measurements"))
    degrees = float(grd.x.max() - grd.x.min()), float(grd.y.max() - grd.y.min())
    width, height = preview(outputs.radar).size
    expected = degrees[0] * np.cos(np.radians(float(grd.y.mean()))) / degrees[1]
    assert width / height == pytest.approx(expected, rel=0.02)


def test_swath_in_true_colour(outputs: Outputs) -> None:
    picture = preview(outputs.swath)
    assert picture.group == "/measurements"
    assert picture.bands == ("oa08_radiance", "oa06_radiance", "oa04_radiance")


def test_north_is_up(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 12).reshape(3, 4)
    down = preview(write_output(tmp_path / "down.zarr", {"g": grid(values)}))
    up = preview(write_output(tmp_path / "up.zarr", {"g": grid(values[::-1], y=np.arange(3) * 10)}))
    left = preview(write_output(tmp_path / "left.zarr", {"g": grid(values[:, ::-1], x=np.arange(4)[::-1] * 10)}))
    assert greys(down)[0, 0] == 0
    np.testing.assert_array_equal(down.pixels, up.pixels)
    np.testing.assert_array_equal(down.pixels, left.pixels)


def test_north_is_up_in_a_swath_from_its_latitudes(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 12).reshape(3, 4)
    latitude, longitude = np.meshgrid([40.0, 41.0, 42.0], [5.0, 6.0, 7.0, 8.0], indexing="ij")
    dataset = xr.Dataset(
        {"b": (("rows", "columns"), values)},
        coords={"latitude": (("rows", "columns"), latitude), "longitude": (("rows", "columns"), longitude)},
    )
    picture = preview(write_output(tmp_path / "swath.zarr", {"g": dataset}))
    assert greys(picture)[-1, 0] == 0, "the first row is the southernmost"


def test_infinite_values_and_constant_bands(tmp_path: Path) -> None:
    values = np.array([[1.0, np.inf], [np.nan, 1.0]])
    picture = preview(write_output(tmp_path / "a.zarr", {"g": grid(values)}))
    np.testing.assert_array_equal(picture.pixels[..., 3], [[255, 0], [0, 255]])
    assert greys(picture)[0, 0] in (127, 128)


def test_nothing_valid(tmp_path: Path) -> None:
    output = write_output(tmp_path / "a.zarr", {"g": grid(np.full((4, 4), np.nan))})
    with pytest.raises(InvalidRequest, match="no valid pixel"):
        preview(output)


def test_nothing_to_draw(tmp_path: Path) -> None:
    output = write_output(tmp_path / "a.zarr", {"g": xr.Dataset({"t": ("time", np.arange(3.0))})})
    with pytest.raises(InvalidRequest, match="rows and columns"):
        preview(output)


def test_ready_made_picture(tmp_path: Path) -> None:
    colours = np.zeros((3, 4, 5), np.uint8)
    colours[0, :2] = 200
    colours[2, 2:] = 100
    dataset = xr.Dataset({"tci": (("band", "y", "x"), colours)}, coords={"y": [30, 20, 10, 0], "x": range(0, 50, 10)})
    picture = preview(write_output(tmp_path / "a.zarr", {"g": dataset}))
    assert picture.bands == ("tci[0]", "tci[1]", "tci[2]")
    assert picture.pixels[0, 0, 0] > picture.pixels[-1, 0, 0]
    assert picture.pixels[0, 0, 2] < picture.pixels[-1, 0, 2]


def test_group_by_its_end(outputs: Outputs) -> None:
    assert preview(outputs.chosen, group="r60m").group == "/measurements/reflectance/r60m"
    assert preview(outputs.whole, group="conditions/mask/l2a_classification/r20m").bands == ("scl",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group": "r66m"}, "r60m"),
        ({"group": "measurements"}, "reflectance"),
        ({"bands": "b99"}, "b0"),
        ({"bands": "b02,b03"}, "one or three"),
        ({"bands": ("b01", "b08", "b04")}, "choose from"),
        ({"level": 7}, "0, 1, 2, 3"),
        ({"level": "finest"}, "coarsest"),
        ({"stretch": (98, 2)}, "(2, 98)"),
        ({"stretch": (2,)}, "(2, 98)"),
        ({"size": 0}, "size=512"),
    ],
)
def test_bad_arguments_say_what_to_do(outputs: Outputs, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        preview(outputs.chosen, **options)
    assert words in caught.value.remedy
    assert caught.value.given


def test_missing_output(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no converted product"):
        preview(tmp_path / "none.zarr")


def test_shows_itself_as_png_and_text(outputs: Outputs) -> None:
    picture = preview(outputs.chosen, size=120)
    image = Image.open(io.BytesIO(picture._repr_png_()))
    assert (image.format, image.size, image.mode) == ("PNG", (120, 120), "RGBA")
    np.testing.assert_array_equal(np.asarray(image), picture.pixels)
    text = repr(picture)
    assert text.startswith(f"<Preview {R10M} at level 2: b04 0.0")
    assert "120 x 120 pixels" in text
    assert "dB" in repr(preview(outputs.radar))


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("b.JPG", "JPEG"), ("new/folder/c.webp", "WEBP")])
def test_saves(outputs: Outputs, tmp_path: Path, name: str, kind: str) -> None:
    picture = preview(outputs.chosen, size=60)
    saved = picture.save(tmp_path / name)
    with Image.open(saved) as image:
        assert (image.format, image.size) == (kind, (60, 60))
        if kind == "JPEG":
            transparent = np.argwhere(picture.pixels[..., 3] == 0)[-1]
            assert min(image.getpixel((int(transparent[1]), int(transparent[0])))) > 200  # type: ignore[type-var, arg-type]


def test_saving_fails_with_a_reason(outputs: Outputs, tmp_path: Path) -> None:
    picture = preview(outputs.chosen, size=60)
    with pytest.raises(InvalidRequest, match=r"\.png"):
        picture.save(tmp_path / "picture.tiff")
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed):
        picture.save(tmp_path / "file" / "a.png")


def test_absent_chunk_is_no_data(outputs: Outputs, tmp_path: Path) -> None:
    shutil.copytree(outputs.chosen, tmp_path / "holed.zarr")
    (tmp_path / "holed.zarr" / R10M[1:] / "r8" / "b04" / "c" / "0" / "0").unlink()
    with pytest.raises(InvalidRequest, match="no valid pixel in b04"):
        preview(tmp_path / "holed.zarr", level="coarsest")
