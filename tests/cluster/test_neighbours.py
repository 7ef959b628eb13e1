"""What others have put on a claim under the names that a run uses: refused in the pod, and left as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import geozarr_nb as gz
from tests.cluster.support import ClusterPlace, FolderVolume
from tests.contract.support import GROUP

pytestmark = pytest.mark.cluster
KEPT = "kept"


def _link_to_folder(path: Path) -> None:
    path.symlink_to("precious")


def _link_to_file(path: Path) -> None:
    path.symlink_to("precious/file")


def _other_folder(path: Path) -> None:
    path.mkdir()  # by whoever runs the tests: root, where the volumes are folders of this machine
    path.chmod(0o777)


def _fifo(path: Path) -> None:
    os.mkfifo(path)
    path.chmod(0o666)


# By the output that it is beside.
IN_THE_WAY: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a": (".a.zarr.partial", _link_to_folder),
    "b": (".b.zarr.partial", _other_folder),
    "c": (".c.zarr.lock", _fifo),
    "d": ("d.zarr.log.jsonl", _link_to_file),
}


@pytest.mark.skipif(os.getuid() != 0, reason="only root may write where everybody's outputs are")
def test_what_has_a_runs_names_is_refused_and_kept(place: ClusterPlace) -> None:
    if not isinstance(place.volume, FolderVolume):
        pytest.skip("the volume's files are not on this machine")
    folder = place.volume.root / place.folder
    precious = folder / "precious" / "file"
    precious.parent.mkdir(parents=True)
    precious.write_text(KEPT)
    for path in (folder, precious.parent, precious):
        path.chmod(0o777)
    planted = []
    for name, plant in IN_THE_WAY.values():
        plant(folder / name)
        planted.append((folder / name).lstat())

    jobs = {name: gz.submit(place.sample, place.output(name), groups=[GROUP]) for name in IN_THE_WAY}
    ends = {name: job.wait(timeout=120).state.failure for name, job in jobs.items()}

    assert {name: failure and failure.code for name, failure in ends.items()} == dict.fromkeys(jobs, "storage-denied")
    assert {name: len(place.tries(name)) for name in jobs} == dict.fromkeys(jobs, 1)
    for (name, _), before in zip(IN_THE_WAY.values(), planted, strict=True):
        assert os.path.samestat((folder / name).lstat(), before)
    assert precious.read_text() == KEPT
    assert [path.name for path in precious.parent.iterdir()] == [precious.name]
