"""A look at a result: as little of it as will do."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from geozarr_nb.widgets import Viewer
from tests.unit.conftest import Outputs
from tests.unit.widgets_support import REFLECTANCE, SECONDS, field, shown

R10M, R60M = f"{REFLECTANCE}/r10m", f"{REFLECTANCE}/r60m"


def viewer_of(source: Any) -> Viewer:
    viewer = Viewer(str(source))
    assert viewer.wait(SECONDS)
    return viewer


def picture_in(viewer: Viewer) -> Image.Image:
    found = re.search(r'src="data:image/png;base64,([^"]*)"', shown(viewer))
    assert found
    return Image.open(io.BytesIO(base64.b64decode(found[1])))


def test_the_coarsest_overview_is_read_and_nothing_else(outputs: Outputs, read: list[str]) -> None:
    viewer = viewer_of(outputs.chosen)
    levels = viewer.content.sizes[R10M]
    assert viewer.picture.level == len(levels) - 1
    assert picture_in(viewer).size == viewer.picture.size
    data = {key for key in read if "/c/" in key and re.search(r"/b\d", key)}
    assert data
    assert all(f"r10m/r{2 ** (len(levels) - 1)}/" in key for key in data)


def test_more_is_read_when_it_is_asked_for(outputs: Outputs) -> None:
    viewer = viewer_of(outputs.chosen)
    coarse = viewer.picture.size
    viewer.level = "native"
    assert viewer.wait(SECONDS)
    assert viewer.picture.level == 0
    assert viewer.picture.size > coarse
    viewer.group = R10M
    assert viewer.wait(SECONDS)
    assert viewer.level == 0
    viewer.level = 1
    assert viewer.wait(SECONDS)
    assert viewer.picture.level == 1
    viewer.group = R60M
    assert viewer.wait(SECONDS)
    assert (viewer.picture.group, viewer.level) == (R60M, "coarsest")


def test_bands_and_stretch(outputs: Outputs) -> None:
    viewer = viewer_of(outputs.chosen)
    assert viewer.picture.bands == ("b04", "b03", "b02")
    assert "b08" in field(viewer, "Bands").options
    viewer.bands = "b08, b04, b03"
    viewer.stretch = (5.0, 95.0)
    assert viewer.wait(SECONDS)
    assert viewer.picture.bands == ("b08", "b04", "b03")
    assert "stretch=(5.0, 95.0)" in viewer.code
    viewer.bands = "b99"
    assert viewer.wait(SECONDS)
    assert viewer.picture is None
    assert "b99" in shown(viewer)
    assert "<img" not in shown(viewer)


@pytest.mark.parametrize("kind", ["chosen", "whole", "radar", "swath"])
def test_every_kind_of_output_has_a_picture(outputs: Outputs, kind: str) -> None:
    viewer = viewer_of(getattr(outputs, kind))
    assert viewer.error is None
    assert viewer.content.bands.keys() == viewer.content.sizes.keys()
    for group in viewer.content.bands:
        viewer.group = group
        assert viewer.wait(SECONDS)
        assert viewer.error is None
        assert viewer.picture.group == group


def test_its_code_draws_the_same(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer = viewer_of(outputs.chosen)
    viewer.group = R60M
    viewer.bands = "b8a"
    assert viewer.wait(SECONDS)
    names: dict[str, Any] = {}
    exec(viewer.code.replace("gz.preview", "picture = gz.preview"), names)
    assert (names["picture"].pixels == viewer.picture.pixels).all()
    assert R60M in names["tree"].groups


def test_a_picture_has_words_for_those_who_do_not_see_it(outputs: Outputs) -> None:
    viewer = viewer_of(outputs.chosen)
    assert f'alt="Picture of {R10M} at level' in shown(viewer)
    text = viewer._repr_mimebundle_()["text/plain"]
    for part in (R10M, R60M, "overviews", "gz.preview("):
        assert part in text


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    viewer = viewer_of(tmp_path / "nothing.zarr")
    assert viewer.error.code == "invalid-request"
    assert "there is no converted product here" in shown(viewer)
    assert len(viewer.children) == 1
