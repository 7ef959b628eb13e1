"""What an orchestrator asks of a run: to be found again, to stay in its folder, and to leave word of how it ended."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.server import ProductServer
from geozarr_runner.cli import main
from geozarr_runner.events import Event, parse_all
from geozarr_runner.outcome import LONGEST_FIELD, LONGEST_MESSAGE, write_last_words, write_outcome
from geozarr_runner.publishing.root_document import provenance
from geozarr_runner.trust.names import output_name
from runner.tests.support import R60M, Run, beside, run, write_terrain

type Install = Callable[[str], dict[str, str]]

SECRET = "sv=1&sig=not-a-secret%2Bof-anyone"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_terrain(tmp_path_factory.mktemp("small") / "terrain.zarr", size=64)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "out.zarr"


@pytest.fixture
def refusing(fake_converter: Install) -> dict[str, str]:
    """A converter that says two lines and fails: what comes before it is the real run."""
    return fake_converter("print('a first line'); sys.exit('OSError: enough')")


def logged(output: Path) -> list[Event]:
    return list(parse_all(output.with_name(f"{output.name}.log.jsonl").read_text().splitlines()))


# --- the stream and the log file -------------------------------------------------------------------------------------


def test_with_log_the_stream_is_the_log_file(s2: Path, output: Path, refusing: dict[str, str]) -> None:
    done = run(s2, output, "--groups", R60M, "--with-log", "--run-id", "pod-1", env=refusing)
    assert done.error["code"] == "converter-failed"
    assert done.events == logged(output)
    assert [event["text"] for event in done.of("log") if event["source"] == "converter"] == [
        "a first line",
        "OSError: enough",
    ]


def test_the_converter_is_told_to_be_verbose_only_where_that_was_asked_for(
    s2: Path, output: Path, fake_converter: Install
) -> None:
    env = fake_converter("print(sys.argv); sys.exit('OSError: enough')")
    for options, expected in (
        (("--with-log",), False),
        (("--with-log", "--verbose=false"), False),
        (("--verbose=true",), True),
        (("--verbose",), True),
    ):
        done = run(s2, output, "--groups", R60M, *options, env=env)
        said = [event["text"] for event in done.of("log") if event["source"] == "converter"]
        assert ("--verbose" in said[0]) == expected, options


@pytest.mark.parametrize(("value", "expected"), [("=true", True), ("", True), ("=false", False), ("=True", True)])
def test_dask_is_told_to_the_converter(
    value: str, expected: bool, s2: Path, output: Path, fake_converter: Install
) -> None:
    env = fake_converter("print(sys.argv); sys.exit('OSError: enough')")
    done = run(s2, output, "--groups", R60M, "--with-log", f"--dask-cluster{value}", env=env)
    said = [event["text"] for event in done.of("log") if event["source"] == "converter"]
    assert ("--dask-cluster" in said[0]) == expected


def test_one_run_is_found_among_several(s2: Path, output: Path, refusing: dict[str, str]) -> None:
    first = run(s2, output, "--groups", R60M, "--run-id", "pod-1", "--with-log", env=refusing)
    second = run(s2, output, "--groups", R60M, "--run-id", "pod-2", "--with-log", env=refusing)
    assert [done.events[0].fields for done in (first, second)] == [{"id": "pod-1"}, {"id": "pod-2"}]
    assert [done.events[0].type for done in (first, second)] == ["run", "run"]
    assert logged(output) == first.events + second.events


def test_without_an_id_no_event_tells_it(small: Path, output: Path, refusing: dict[str, str]) -> None:
    done = run(small, output, env=refusing)
    assert done.of("run") == []
    assert done.events[0].type == "stage"


# --- runs that are refused -------------------------------------------------------------------------------------------


def test_a_refused_run_with_an_id_is_in_the_log_file(tmp_path: Path, output: Path) -> None:
    done = run(tmp_path / "absent.zarr", output, "--run-id", "pod-1")
    assert done.error["code"] == "product-not-found"
    assert logged(output) == done.events
    assert beside(output) == set()


def test_a_refused_run_without_one_leaves_nothing(tmp_path: Path, output: Path) -> None:
    done = run(tmp_path / "absent.zarr", output)
    assert done.error["code"] == "product-not-found"
    assert list(output.parent.iterdir()) == []


def test_a_run_with_nothing_to_do_is_in_the_log_file(s2: Path, good: Run, tmp_path: Path) -> None:
    output = Path(shutil.copytree(good.output, tmp_path / "out.zarr"))
    options = ("--groups", "measurements/reflectance/r10m", "--if-exists", "skip", "--run-id", "pod-2")
    done = run(s2, output, *options)
    assert done.result["skipped"]
    assert logged(output) == done.events


@pytest.mark.parametrize("how", [(), ("--if-exists", "overwrite"), ("--archive",)], ids=" ".join)
def test_what_an_earlier_pod_of_its_workflow_has_written_is_done(how: tuple[str, ...], s2: Path, output: Path) -> None:
    """Argo makes a pod again that vanished, under its name; what it has published is no other's output."""
    given = (s2, output, "--groups", R60M, *how)
    first = run(*given, "--run-id", "uid-of-a-workflow/pod")
    assert first.code == 0, first.stdout
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    again = run(*given, "--run-id", "uid-of-a-workflow/pod")
    assert (again.code, again.result["skipped"]) == (0, True)
    assert again.result["archive"] == first.result["archive"]
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    if "overwrite" not in how:
        assert run(*given, "--run-id", "uid-of-another/pod").error["code"] == "output-exists"
        assert run(*given).error["code"] == "output-exists"


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("place", ["absent/out.zarr", "inside.zarr/out.zarr", "a-file", "inside.zarr/dem/out.zarr"])
def test_a_refused_run_leaves_no_log_where_none_belongs(place: str, small: Path, tmp_path: Path) -> None:
    """In a folder that is not there yet, inside of a product, beside a file that is no store."""
    shutil.copytree(small, tmp_path / "inside.zarr")
    (tmp_path / "a-file").write_text("mine")
    before = tree(tmp_path)
    done = run(tmp_path / "absent.zarr", tmp_path / place, "--run-id", "pod-1")
    assert done.error["code"] == "product-not-found"
    assert tree(tmp_path) == before


def test_a_log_file_of_its_own_place_gets_a_refused_run(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "log.jsonl"
    done = run(
        tmp_path / "absent.zarr", tmp_path / "absent" / "out.zarr", "--run-id", "pod-1", "--log", log, "--with-log"
    )
    assert list(parse_all(log.read_text().splitlines())) == done.events
    assert not (tmp_path / "absent").exists()


# --- where outputs may lie -------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "away").symlink_to(tmp_path)
    (folder / "away.zarr").symlink_to(tmp_path / "absent.zarr")
    return folder


@pytest.mark.parametrize(
    "typed",
    [
        "../out.zarr",
        "{data}/../out.zarr",
        "/elsewhere/out.zarr",
        "away/out.zarr",
        "away.zarr",
        ".",
        "{data}",
        "~/o.zarr",
    ],
)
def test_an_output_outside_of_its_folder_is_refused(
    typed: str, data: Path, small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    monkeypatch.setenv("HOME", str(data.parent))
    before = tree(data.parent)
    code = main(["convert", "--within", str(data), "--run-id", "1", "--", str(small), typed.format(data=data)])
    *_, error = parse_all(capsys.readouterr().out.splitlines())
    assert code == 2
    assert error["code"] == "invalid-request"
    assert str(data) in error["message"]
    assert tree(data.parent) == before


@pytest.mark.parametrize(
    "typed", ["out.zarr", "{data}/out.zarr", "{link}/a/../out.zarr", "-out.zarr", "a b;'\"$(x).zarr"]
)
def test_an_output_inside_of_it_is_not(
    typed: str,
    data: Path,
    small: Path,
    refusing: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = data.parent / "link"
    link.symlink_to(data)
    monkeypatch.chdir(data)
    absent = str(data.parent / "absent.zarr")
    assert main(["convert", f"--within={data}", "--", absent, typed.format(data=data, link=link)]) == 3
    assert "product-not-found" in capsys.readouterr().out


def test_an_output_without_a_name_is_named_after_the_product(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(small, "", "--within", tmp_path, "--run-id", "1")
    output = tmp_path / "terrain_geozarr.zarr"
    assert done.result["path"] == str(output)
    assert provenance(output) is not None
    assert logged(output)[0].type == "run"


def test_a_products_name_does_not_lead_out_of_the_folder(
    small: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(data)
    item = {"id": "../../x", "assets": {"product": {"href": str(small), "type": "application/vnd+zarr"}}}
    (data / "item.json").write_text(json.dumps(item))
    name = output_name("../../x")
    (data / name).write_text("in the way")
    assert main(["convert", "item.json", "", "--within", str(data)]) == 2
    assert f"{data}/{name}" in capsys.readouterr().out


@pytest.mark.parametrize(("handed_on", "folder", "file"), [(0, 0o755, 0o644), (0o027, 0o750, 0o640)])
def test_nobody_else_may_change_what_it_writes(
    handed_on: int, folder: int, file: int, small: Path, output: Path
) -> None:
    before = os.umask(handed_on)
    try:
        done = run(small, output)
    finally:
        os.umask(before)
    assert done.result["path"] == str(output)
    assert stat.S_IMODE(output.stat().st_mode) == folder
    assert stat.S_IMODE((output / "zarr.json").stat().st_mode) == file


# --- how it ended ----------------------------------------------------------------------------------------------------


def test_a_result_is_left_behind(small: Path, output: Path, tmp_path: Path) -> None:
    outcome, words = tmp_path / "outcome.json", tmp_path / "words"
    done = run(small, output, "--outcome", outcome, "--termination-log", words)
    left = json.loads(outcome.read_text())
    assert left == json.loads(done.stdout.splitlines()[-1])
    assert left["type"] == "result"
    assert not words.exists()


def test_an_error_is_left_behind(output: Path, tmp_path: Path) -> None:
    outcome, words = tmp_path / "outcome.json", tmp_path / "words"
    done = run(tmp_path / "absent.zarr", output, "--outcome", outcome, "--termination-log", words)
    assert json.loads(outcome.read_text()) == json.loads(done.stdout.splitlines()[-1])
    assert words.read_text() == "[product-not-found] there is no product here"


@pytest.mark.parametrize("wrong", ["--verbose=maybe", "--if-exists=maybe", "--nonsense"])
def test_a_command_line_that_cannot_be_read_is_an_error_too(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome, words = tmp_path / "outcome.json", tmp_path / "words"
    left = [f"--outcome={outcome}", f"--termination-log={words}"]
    assert main(["convert", wrong, *left, "--run-id=1", "--", "in.zarr", "out.zarr"]) == 2
    captured = capsys.readouterr()
    run, error = parse_all(captured.out.splitlines())
    assert (run.type, run["id"], error.type, error["code"]) == ("run", "1", "error", "invalid-request")
    assert wrong.partition("=")[0] in error["message"]
    assert "geozarr-runner convert --help" in error["remedy"] or "choose of" in error["remedy"]
    assert captured.err == ""
    assert json.loads(outcome.read_text())["code"] == "invalid-request"
    assert words.read_text().startswith("[invalid-request] ")


@pytest.mark.parametrize(
    "words",
    [["convert"], ["convert", "--verbose=maybe", "a", "b"], ["convert", "a", "b", "--run-id"], ["nonsense"], []],
)
def test_a_person_is_told_what_is_wrong_and_what_to_type(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error [invalid-request]: geozarr-runner")
    assert "\n  remedy: " in captured.err


def test_what_cannot_be_left_behind_does_not_change_how_it_ended(output: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "absent" / "file"
    done = run(tmp_path / "absent.zarr", output, "--outcome", nowhere, "--termination-log", nowhere, "--with-log")
    assert done.code == 3
    assert [event["text"] for event in done.of("log")] == [
        f"{nowhere} cannot be written: No such file or directory"
    ] * 2
    assert done.stderr == ""


def test_what_is_too_big_to_be_left_behind_is_cut(tmp_path: Path) -> None:
    event: dict[str, Any] = {"type": "error", "code": "x", "given": "g" * 10**6, "groups": ["/group"] * 10**5}
    event |= {"message": "two\nlines \udcff" + "m" * 10**6, "exit_code": 4, "retryable": False}
    write_outcome(tmp_path / "outcome", event)
    write_last_words(tmp_path / "words", event)
    left = json.loads((tmp_path / "outcome").read_text())
    assert left["given"] == "g" * LONGEST_FIELD
    assert left["groups"] is None
    assert (left["type"], left["exit_code"], left["retryable"]) == ("error", 4, False)
    words = (tmp_path / "words").read_text()
    assert words.startswith("[x] two lines \\udcffmmm")
    assert len(words) == LONGEST_MESSAGE


# --- a signed address ------------------------------------------------------------------------------------------------


@pytest.fixture
def signed(small: Path) -> Iterator[ProductServer]:
    with ProductServer(small.parent, signature=SECRET) as server:
        yield server


def test_the_signature_comes_from_the_environment_and_stays_there(
    signed: ProductServer, output: Path, tmp_path: Path, fake_converter: Install
) -> None:
    shown = f"{signed.url}/terrain.zarr"
    env = fake_converter("print(dict(os.environ)); sys.exit('OSError: enough')")
    env["GEOZARR_INPUT"] = f"{shown}?{SECRET}\n"
    done = run(shown, output, "--with-log", "--outcome", tmp_path / "outcome", env=env)
    assert done.error["code"] == "converter-failed"
    assert signed.counts.denied == 0
    everything = done.stdout + done.stderr + (tmp_path / "outcome").read_text()
    assert "not-a-secret" not in everything
    assert "GEOZARR_INPUT" not in everything
    assert "not-a-secret" not in output.with_name("out.zarr.log.jsonl").read_text()


@pytest.mark.parametrize(
    "typed", ["https://host/other.zarr", "https://user:hush@host/other.zarr?token=hush", "/other.zarr"]
)
@pytest.mark.parametrize("full", [f"https://host/one.zarr?{SECRET}", "not-a-secret", f"s3://host/other.zarr?{SECRET}"])
def test_the_environment_has_another_address(typed: str, full: str, output: Path) -> None:
    done = run(typed, output, "--run-id", "1", env={"GEOZARR_INPUT": full})
    assert (done.code, done.error["code"]) == (2, "invalid-request")
    assert "GEOZARR_INPUT" in done.error["message"]
    assert "not-a-secret" not in done.stdout + done.stderr
    assert "hush" not in done.stdout + done.stderr
    assert list(output.parent.iterdir()) == []


def test_an_address_from_standard_input_is_whole_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    monkeypatch.setenv("GEOZARR_INPUT", f"https://host/one.zarr?{SECRET}")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{tmp_path}/absent.zarr\n"))
    assert main(["convert", "-", str(tmp_path / "out.zarr")]) == 3
    assert "GEOZARR_INPUT" not in os.environ
    assert "product-not-found" in capsys.readouterr().out
