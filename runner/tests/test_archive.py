"""A finished output as one file: the same bytes for the same output, whole or not there, and never another's."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from geozarr_runner.errors import InvalidRequest, OutputExists, StorageFull
from geozarr_runner.events import describe, human_bytes
from geozarr_runner.publishing import archive as module
from geozarr_runner.publishing.archive import (
    archive_path,
    check_name,
    checksum_in,
    checksum_path,
    existing,
    offer,
    pack,
    write_archive,
)
from geozarr_runner.publishing.local import workspace
from geozarr_runner.publishing.remote_output import RemoteOutput
from runner.tests.support import R60M, RUNNER, Run, beside, environment, run, until

MB = 1 << 20


def packed(folder: Path, file: Path) -> str:
    with file.open("wb") as target:
        return write_archive(folder, target, lambda *_: None)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder that stands for an output, with names that are sorted in more than one way, and a long one."""
    root = tmp_path / "in" / "out.zarr"
    for name in (
        "zarr.json",
        "a/c/0/0",
        "a-b",
        "a/c/0/10",
        "a/c/0/9",
        "ü/zarr.json",
        f"{'n' * 90}/{'m' * 90}",
        "empty",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1000 if name != "empty" else b"")
    return root


@pytest.fixture(scope="module")
def done(s2: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has packed its output; nobody changes what it left."""
    return run(s2, tmp_path_factory.mktemp("packed") / "out.zarr", "--groups", R60M, "--archive")


def copied(done: Run, folder: Path) -> Path:
    """Return a copy of what a run left, with its times."""
    for entry in done.output.parent.iterdir():
        if entry.is_dir():
            shutil.copytree(entry, folder / entry.name)
        else:
            shutil.copy2(entry, folder / entry.name)
    return folder / done.output.name


# --- its bytes -------------------------------------------------------------------------------------------------------


def test_there_is_none_of_an_output_in_an_object_store() -> None:
    output = RemoteOutput("s3://bucket/out.zarr")
    with pytest.raises(InvalidRequest, match="leave archive out"):
        check_name(output, if_exists="skip")


def test_the_same_output_has_the_same_bytes(store: Path, tmp_path: Path) -> None:
    first = packed(store, tmp_path / "first")
    other = tmp_path / "elsewhere" / "out.zarr"
    names = sorted((path for path in store.rglob("*")), reverse=True)
    for path in names:  # made in another order, with other times and modes
        target = other / path.relative_to(store)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copyfile(path, target)
            target.chmod(0o600)
            os.utime(target, (1, 1))
    assert packed(other, tmp_path / "second") == first == sha256(tmp_path / "first")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    (other / "a-b").write_bytes(b"changed")
    assert packed(other, tmp_path / "third") != first


def test_nothing_of_the_machine_is_in_it(store: Path, tmp_path: Path) -> None:
    packed(store, tmp_path / "a.tar.gz")
    with gzip.open(tmp_path / "a.tar.gz") as unpacked:
        unpacked.read(1)
        assert unpacked.mtime == 0
    assert (tmp_path / "a.tar.gz").read_bytes()[:10] == bytes([31, 139, 8, 0, 0, 0, 0, 0, 0, 255])
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted((member.name for member in members), key=os.fsencode)
    assert {(one.mtime, one.uid, one.gid, one.uname, one.gname) for one in members} == {(0, 0, 0, "", "")}
    assert {(one.isdir(), oct(one.mode)) for one in members} == {(True, "0o755"), (False, "0o644")}


@pytest.mark.parametrize("reader", ["python", "tar"])
def test_it_is_read_by_others(store: Path, tmp_path: Path, reader: str) -> None:
    packed(store, tmp_path / "a.tar.gz")
    target = tmp_path / "unpacked"
    target.mkdir()
    if reader == "tar":
        subprocess.run(["tar", "-xzf", tmp_path / "a.tar.gz", "-C", target], check=True)
    else:
        with tarfile.open(tmp_path / "a.tar.gz") as tar:
            tar.extractall(target, filter="data")
    assert files(target / "out.zarr") == files(store)


def test_its_progress_counts_the_outputs_bytes(store: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int | None, str]] = []
    with (tmp_path / "a").open("wb") as file:
        write_archive(store, file, lambda *what: told.append(what))
    total = sum(map(len, files(store).values()))
    assert told[-1] == (total, total, "bytes")
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)


def test_it_needs_no_memory_for_what_it_packs(tmp_path: Path) -> None:
    root = tmp_path / "big.zarr"
    (root / "c").mkdir(parents=True)
    for number in range(2):
        with (root / "c" / str(number)).open("wb") as file:
            file.truncate(200 * MB)
    for number in range(3000):
        (root / f"{number}").write_bytes(b"x")
    code = (
        "import sys; from pathlib import Path; from geozarr_runner.publishing.archive import write_archive\n"
        # The peak of this program alone: that of `getrusage` begins with what the process had that started it.
        "def peak(): return int(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])\n"
        "before = peak()\n"
        "with open('/dev/null', 'wb') as file: write_archive(Path(sys.argv[1]), file, lambda *_: None)\n"
        "print(peak() - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 20 * 1024


# --- a run -----------------------------------------------------------------------------------------------------------


def test_a_run_packs_what_it_has_published(done: Run, tmp_path: Path) -> None:
    path = archive_path(done.output)
    told = done.result["archive"]
    assert told == {"path": str(path), "bytes": path.stat().st_size, "sha256": sha256(path)}
    assert describe(done.result).endswith(f"; as one file {path}: {human_bytes(told['bytes'])}")
    assert checksum_path(path).read_text() == f"{told['sha256']}  {path.name}\n"
    subprocess.run(["sha256sum", "--check", "--strict", checksum_path(path)], cwd=path.parent, check=True)
    assert beside(done.output) == {"out.zarr", "out.zarr.tar.gz", "out.zarr.tar.gz.sha256"}
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path, filter="data")
    assert files(tmp_path / "out.zarr") == files(done.output)


def test_it_is_a_stage_with_a_progress_in_bytes(done: Run) -> None:
    stages = [event["stage"] for event in done.of("stage") if event["state"] == "finished"]
    assert stages == ["preflight", "stage", "convert", "verify", "publish", "archive"]
    last = [event for event in done.of("progress") if event["stage"] == "archive"][-1]
    assert (last["done"], last["total"], last["unit"]) == (*[done.result["bytes_written"]] * 2, "bytes")


def test_without_being_asked_there_is_none(good: Run) -> None:
    assert good.result["archive"] is None
    assert not archive_path(good.output).exists()
    assert "archive" not in [event["stage"] for event in good.of("stage")]


def test_skip_packs_what_is_there_once(done: Run, s2: Path, tmp_path: Path) -> None:
    output = copied(done, tmp_path)
    arguments = (s2, output, "--groups", R60M, "--if-exists", "skip", "--archive")
    kept = archive_path(output).stat().st_ino
    again = run(*arguments)
    assert (again.result["skipped"], again.result["archive"]["sha256"]) == (True, done.result["archive"]["sha256"])
    assert archive_path(output).stat().st_ino == kept
    assert [event["stage"] for event in again.of("stage")] == ["preflight"] * 2

    archive_path(output).unlink()
    made = run(*arguments)
    assert (made.result["skipped"], made.result["archive"]["sha256"]) == (True, done.result["archive"]["sha256"])
    assert [event["stage"] for event in made.of("stage")] == ["preflight"] * 2 + ["archive"] * 2
    assert "nothing to do" not in describe(made.result)
    assert beside(output) == {"out.zarr", "out.zarr.tar.gz", "out.zarr.tar.gz.sha256"}


def test_one_of_an_output_before_is_made_anew(done: Run, s2: Path, tmp_path: Path) -> None:
    output = copied(done, tmp_path)
    os.utime(archive_path(output), (1, 1))
    assert existing(output) is None
    again = run(s2, output, "--groups", R60M, "--if-exists", "skip", "--archive")
    assert again.result["archive"]["sha256"] == done.result["archive"]["sha256"]
    assert existing(output) is not None


@pytest.mark.parametrize("archive", ["true", "false"])
def test_it_goes_with_the_output_that_it_was_of(done: Run, s2: Path, tmp_path: Path, archive: str) -> None:
    output = copied(done, tmp_path)
    again = run(s2, output, "--groups", R60M, "--if-exists", "overwrite", f"--archive={archive}")
    made = {"out.zarr.tar.gz", "out.zarr.tar.gz.sha256"} if archive == "true" else set()
    assert again.code == 0
    assert beside(output) == {"out.zarr"} | made
    if made:
        assert again.result["archive"]["sha256"] == sha256(archive_path(output)) != done.result["archive"]["sha256"]


@pytest.mark.parametrize("if_exists", ["error", "skip"])
def test_what_is_not_ours_stays(s2: Path, tmp_path: Path, if_exists: str) -> None:
    output = tmp_path / "out.zarr"
    archive_path(output).write_text("mine")
    refused = run(s2, output, "--groups", R60M, "--archive", "--if-exists", if_exists)
    assert (refused.code, refused.error["code"]) == (2, "output-exists")
    assert refused.error["given"] == str(archive_path(output))
    assert archive_path(output).read_text() == "mine"
    assert beside(output) == {"out.zarr.tar.gz"}
    check_name(output, if_exists="overwrite")


def test_a_full_disk_leaves_the_output_and_says_how_to_go_on(done: Run, s2: Path, tmp_path: Path) -> None:
    output = copied(done, tmp_path)
    archive_path(output).unlink()
    # A limit on the size of files stands for the full disk: no object of the output is as large as all of them are.
    limit = sum(map(len, files(output).values())) // 2
    code = (
        f"import resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from geozarr_runner.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = [str(s2), str(output), "--groups", R60M, "--if-exists", "skip", "--archive"]
    ended = subprocess.run(
        [sys.executable, "-c", code, "convert", *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    error = json.loads(ended.stdout.splitlines()[-1])
    assert (ended.returncode, error["code"]) == (6, "storage-full")
    assert "the output is there and verified, its archive is not" in error["message"]
    assert 'if_exists="skip"' in error["remedy"]
    assert not archive_path(output).exists()
    assert not [name for name in beside(output) if name.startswith(".")]
    assert files(output) == files(done.output)


def test_a_disk_with_too_little_space_is_not_filled(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = sum(map(len, files(store).values())) - 1
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(total=10 * free, free=free))
    with workspace(store) as space, pytest.raises(StorageFull, match="are free"):
        pack(space, lambda *_: None)
    assert beside(store) == {"out.zarr"}
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(total=10 * free, free=free + 1))
    with workspace(store) as space:
        assert pack(space, lambda *_: None).path == archive_path(store)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_while_it_packs_leaves_no_half_archive(
    s2: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "out.zarr"
    first = run(s2, output, "--groups", R60M)
    assert first.code == 0
    with (output / "big").open("wb") as file:
        file.truncate(2000 * MB)  # takes a while, and no space
    command = [*RUNNER, "convert", s2, output, "--groups", R60M, "--if-exists", "skip", "--archive"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        until(lambda: (tmp_path / ".out.zarr.partial" / "archive.tar.gz").exists())
        process.send_signal(number)
        process.communicate()
    assert process.returncode == (7 if number == signal.SIGTERM else -9)
    assert not archive_path(output).exists()
    assert not checksum_path(archive_path(output)).exists()
    (output / "big").unlink()
    assert run(*command[4:]).result["archive"]["sha256"] == sha256(archive_path(output))
    assert not [name for name in beside(output) if name.startswith(".")]


# --- for Argo --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "offered"),
    [
        (None, False),
        ("{", False),
        ("[]", False),
        ('{"name": "geozarr-convert"}', False),
        ('{"archiveLocation": {}}', False),
        ('{"archiveLocation": {"archiveLogs": false}}', False),
        ('{"archiveLocation": {"archiveLogs": false, "s3": {"bucket": "b", "key": "k"}}}', True),
        ('{"archiveLocation": {"gcs": {"bucket": "b", "key": "k"}}}', True),
    ],
)
def test_it_is_offered_where_argo_has_a_repository(
    template: str | None, offered: bool, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXECUTOR", tmp_path / "template")
    if template is not None:
        (tmp_path / "template").write_text(template)
    data, outputs = tmp_path / "data", tmp_path / "outputs"
    shutil.move(store.parent, data)
    outputs.mkdir()
    path = data / "out.zarr.tar.gz"
    digest = packed(data / "out.zarr", path)
    place = outputs / "geozarr.tar.gz"
    for _ in range(2):  # a second try finds the first one's link
        assert offer(module.Archive(path, 1, digest), place) is offered
    assert place.exists() is offered
    if offered:
        # The executor sees the same volumes below another root.
        (tmp_path / "mainctrfs").mkdir()
        for folder in (data, outputs):
            shutil.move(folder, tmp_path / "mainctrfs" / folder.name)
        assert sha256(tmp_path / "mainctrfs" / "outputs" / "geozarr.tar.gz") == digest


@pytest.mark.parametrize(
    ("line", "found"),
    [("0" * 64 + "  a.tar.gz\n", "0" * 64), ("0" * 64 + "  a b\n", "0" * 64), ("0" * 63 + "  a\n", None), ("", None)],
)
def test_a_checksum_is_read_as_it_is_written(line: str, found: str | None) -> None:
    assert checksum_in(line) == found


def test_an_output_without_an_archive_has_none(tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    assert existing(output) is None
    archive_path(output).mkdir()
    with pytest.raises(OutputExists):
        check_name(output, if_exists="error")
