"""What a later version left in an object store, or anybody: told, and nothing is removed for its sake."""

from __future__ import annotations

import json
from typing import Any

import pytest

from geozarr_runner.errors import LaterVersion
from geozarr_runner.publishing import object_store
from geozarr_runner.publishing.remote_output import RemoteOutput

OUTPUT = RemoteOutput("s3://bucket/out.zarr")
OBJECTS: dict[str, Any] = {"a/0.0": None}


@pytest.fixture
def left(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    content = request.param if isinstance(request.param, bytes) else json.dumps(request.param).encode()
    monkeypatch.setattr(object_store, "read_beside", lambda *_: content)
    return request.param


@pytest.mark.parametrize("left", [{"v": 2}, {"v": 3, "objects": {"a/0.0": [1, ""]}, "replaces": []}], indirect=True)
def test_a_later_manifest_says_so(left: Any) -> None:
    with pytest.raises(LaterVersion, match="later version") as caught:
        object_store._is_left_over(OUTPUT, OBJECTS)
    assert (caught.value.code, caught.value.given) == ("later-version", OUTPUT)
    assert caught.value.remedy == "pip install -U geozarr-nb"


@pytest.mark.parametrize(
    "left",
    [
        *(b"", b"{", b"[]", b"\xff", b"7"),
        *({}, {"v": 1}, {"v": 1, "objects": 7}, {"v": 1, "objects": ["a/0.0"]}, {"v": 1, "objects": "a/0.0"}),
        {"v": 1, "objects": {"a/0.0": []}, "replaces": 7},
        {"v": 1, "objects": {}, "replaces": [["a/0.0"]]},
    ],
    indirect=True,
    ids=repr,
)
def test_a_manifest_that_is_none_makes_nothing_left_over(left: Any) -> None:
    assert not object_store._is_left_over(OUTPUT, OBJECTS)


@pytest.mark.parametrize(
    "left", [{"v": 1, "objects": {"a/0.0": [1, ""]}}, {"objects": {}, "replaces": ["a/0.0"]}], indirect=True
)
def test_a_runs_own_manifest_does(left: Any) -> None:
    assert object_store._is_left_over(OUTPUT, OBJECTS)
