"""Runs go on with what 0.1.0 left, and leave the same files, records and events."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import geozarr_nb as gz
from tests.frozen.present import Document, busy_slots, filled, recorded, run_runner

BEFORE = recorded("output")
[QUEUED] = [job for job in recorded("state")["jobs"] if job["kind"] == "queued"]
GROUP = "/measurements/reflectance/r60m"
RECORD = "geozarr_runner"
BAD_REQUEST = recorded("errors")["exit_codes"]["BAD_REQUEST"]


def shape(thing: Any) -> Any:
    """Return the names and kinds of what a document holds."""
    match thing:
        case dict():
            return {name: shape(value) for name, value in thing.items()}
        case list():
            return [shape(value) for value in thing[:1]]
        case bool():
            return "bool"
        case int() | float():
            return "number"
    return "null" if thing is None else "text"


def missing(before: Any, now: Any, where: str = "") -> list[str]:
    """Return which parts of a shape another one does not have; null may be anything."""
    if isinstance(before, dict) and isinstance(now, dict):
        gone = [f"{where}.{name}" for name in before if name not in now]
        kept = [name for name in before if name in now]
        return gone + [one for name in kept for one in missing(before[name], now[name], f"{where}.{name}")]
    if isinstance(before, list) and isinstance(now, list):
        return [one for old, new in zip(before, now, strict=False) for one in missing(old, new, f"{where}[]")]
    return [] if before == now or "null" in (before, now) else [f"{where}: {before} became {now}"]


def wrong_events(events: list[Document]) -> list[str]:
    """Return which fields events do not have, or in another form, that those of 0.1.0 have always."""
    found = []
    for event in events:
        kind = event["type"]
        fields = dict(BEFORE["events"][kind])
        if kind == "stage" and event["state"] == "started":
            del fields["seconds"]
        found += [f"{kind}{one}" for one in missing(fields, shape(event))]
    return found


# --- a job that 0.1.0 queued -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which 0.1.0 queued a job, and a run of it was killed; the job has waited for a slot and has run."""
    home = tmp_path_factory.mktemp("home")
    state = home / "state"
    gz.sample_product(home / "S2A_SAMPLE.zarr", size=120)
    left = home / "out" / ".queued.zarr.partial"
    left.mkdir(parents=True)
    (left / "half").write_text("of a run that was killed")
    folder = state / "jobs" / QUEUED["name"]
    for each in (folder, state / "slots"):
        each.mkdir(parents=True, mode=0o700)
    places = {"home": home, "state": state, "python": sys.executable, "PATH": os.environ["PATH"]}
    for name, document in filled(QUEUED["files"], places).items():
        (folder / name).write_text(json.dumps(document))
        (folder / name).chmod(0o600)
    for each in (state, state / "jobs"):
        each.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOZARR_STATE_DIR", str(state))
        with busy_slots(state):
            assert [(job.name, job.status) for job in gz.list_jobs().jobs] == [(QUEUED["name"], "Pending")]
        job = gz.get_job(QUEUED["name"]).wait()
        assert job.status == "Succeeded", "\n".join(job.logs())
        yield home


def test_a_queued_job_leaves_the_recorded_files(home: Path) -> None:
    names = {name.replace("done", "queued") for name in BEFORE["files"]}
    # A job's log has a place of its own.
    assert {path.name for path in (home / "out").iterdir()} == names - {"queued.zarr.log.jsonl"}
    assert {path.name for path in (home / "state" / "jobs" / QUEUED["name"]).iterdir()} == {
        *("request.json", "ticket.json", "claim.json", "exit.json", "events.jsonl", "log.jsonl", "lock")
    }


def test_its_documents_have_the_recorded_fields(home: Path) -> None:
    folder = home / "state" / "jobs" / QUEUED["name"]
    [finished] = [job for job in recorded("state")["jobs"] if job["kind"] == "finished"]
    for name in ("request.json", "claim.json", "exit.json"):
        document = json.loads((folder / name).read_text())
        assert missing(shape(finished["files"][name]), shape(document)) == [], name


def test_its_output_has_a_record_with_the_recorded_fields(home: Path) -> None:
    now = json.loads((home / "out" / "queued.zarr" / "zarr.json").read_text())["attributes"][RECORD]
    before = BEFORE["root"]["attributes"][RECORD]
    assert missing(shape(before), shape(now)) == []
    assert (now["schema"], now["packed"], now["groups"]) == (before["schema"], before["packed"], before["groups"])


def test_its_item_has_the_recorded_fields(home: Path) -> None:
    now = json.loads((home / "out" / "queued.zarr.stac.json").read_text())
    before = BEFORE["item"]
    assert missing(shape(before["properties"]), shape(now["properties"])) == []
    assert set(before) <= set(now)
    assert set(before["assets"]) <= set(now["assets"])
    assert {link["rel"] for link in before["links"]} <= {link["rel"] for link in now["links"]}


def test_its_events_have_the_recorded_fields(home: Path) -> None:
    text = (home / "state" / "jobs" / QUEUED["name"] / "log.jsonl").read_text()
    events = [json.loads(line) for line in text.splitlines()]
    assert wrong_events(events) == []
    assert list(dict.fromkeys(event["stage"] for event in events if event["type"] == "stage")) == BEFORE["stages"]
    kinds = {event["type"] for event in events}
    assert kinds == set(BEFORE["events"]) - {"run", "warning", "error"}, "which the next test has"


def test_its_converter_is_called_as_before(home: Path) -> None:
    [finished] = [job for job in recorded("state")["jobs"] if job["kind"] == "finished"]
    now = (home / "state" / "jobs" / QUEUED["name"] / "log.jsonl").read_text()
    assert options_of_converter(map(json.loads, now.splitlines())) == options_of_converter(
        finished["files"]["log.jsonl"]
    )


def options_of_converter(events: Iterable[Document]) -> list[str]:
    """Return what a run that has told its call of the converter gives it besides input and output."""
    [call] = [event["text"] for event in events if event.get("text", "").startswith("running ")]
    return str(call).split()[5:]


# --- an output that 0.1.0 made ---------------------------------------------------------------------------------------


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """A product, and an output that 0.1.0 made of it, as far as their documents go."""
    product, output = tmp_path / "S2A_SAMPLE.zarr", tmp_path / "out" / "done.zarr"
    documents: Mapping[Path, Any] = {
        product / ".zmetadata": BEFORE["product"][".zmetadata"],
        output / "zarr.json": filled(BEFORE["root"], {"home": tmp_path}),
        output.with_name("done.zarr.stac.json"): filled(BEFORE["item"], {"home": tmp_path}),
    }
    for path, document in documents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
    return product


type Run = Callable[..., tuple[int, list[Document]]]


@pytest.fixture
def run(product: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the runner in this process; returns its exit code and its events."""

    def run(*options: str, output: str = "done.zarr") -> tuple[int, list[Document]]:
        code = run_runner(["convert", str(product), str(product.parent / "out" / output), "--json", *options])
        return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_a_product_has_its_identity(product: Path) -> None:
    assert gz.inspect(product).identity == BEFORE["product_identity"]


def test_an_output_is_kept_that_was_made_of_the_same(run: Run) -> None:
    code, events = run("--groups", GROUP, "--if-exists", "skip")
    assert (code, events[-1]["type"], events[-1]["skipped"]) == (0, "result", True)
    assert wrong_events(events) == []


@pytest.mark.parametrize(
    ("name", "value"), [("groups", ["/measurements/reflectance/r10m"]), ("packed", True), ("schema", 2)]
)
def test_an_output_is_in_the_way_that_was_made_of_something_else(
    name: str, value: object, product: Path, run: Run
) -> None:
    path = product.parent / "out" / "done.zarr" / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"][RECORD][name] = value
    path.write_text(json.dumps(document))
    code, events = run("--groups", GROUP, "--if-exists", "skip")
    assert (code, events[-1]["code"]) == (BAD_REQUEST, "output-exists")


def test_a_refused_run_says_so_where_0_1_0_did(product: Path, run: Run) -> None:
    outcome, words = product.parent / "outcome.json", product.parent / "words"
    told = ("--run-id", "one", "--outcome", str(outcome), "--termination-log", str(words))
    code, events = run("--groups", GROUP, "/measurements/r99m", *told)
    assert (code, events[0]["id"], events[-1]["code"]) == (BAD_REQUEST, "one", "output-exists")
    assert wrong_events(events) == []
    assert {event["type"] for event in events} == {"run", "stage", "message", "warning", "error"}
    warnings = [event["code"] for event in events if event["type"] == "warning"]
    assert [code for code in warnings if code != "no-chunks"] == ["group-dropped"]  # that one is younger
    log = product.parent / "out" / "done.zarr.log.jsonl"
    assert [json.loads(line) for line in log.read_text().splitlines()] == events
    assert json.loads(outcome.read_text()) == events[-1]
    assert words.read_text().startswith("[output-exists] ")


def test_a_run_of_0_1_0_that_is_at_work_is_not_disturbed(product: Path, run: Run) -> None:
    with (product.parent / "out" / ".other.zarr.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, events = run("--groups", GROUP, output="other.zarr")
    assert (code, events[-1]["code"]) == (BAD_REQUEST, "output-busy")
