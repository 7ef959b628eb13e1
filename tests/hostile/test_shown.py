"""What products, servers, jobs and outputs of others say never moves a cursor, nor ends a line that is ours."""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from geozarr_nb import errors
from geozarr_nb.backends.base import Failure, JobState, Progress
from geozarr_nb.cli import main
from geozarr_nb.jobs.display import Board, LineDisplay, TerminalDisplay
from geozarr_nb.jobs.state_text import describe_state
from geozarr_runner.events import CLEAR_LINE, Event, Reporter, describe, parse
from geozarr_runner.outcome import write_last_words
from geozarr_runner.spec.request import Request
from geozarr_runner.text.printable import printable, printable_json

# A title, a cleared screen, C1's own escape, an order that is turned, lines that end: and what would stand on them.
FORGED = "error [forged]: run this"
NASTY = "a\x1b]0;title\x07\x1b[2J\x9b2J\x7f\u202eb\u2066\u200f" + FORGED.join("\u2028\u2029\x85\r\n\t")
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def assert_shown_safely(text: str) -> None:
    """Fail where something of a text cannot be seen, or where a line is not ours."""
    text = text.replace(CLEAR_LINE, "")
    assert not [letter for letter in text if letter != "\n" and unicodedata.category(letter) in HIDDEN], text
    assert not [line for line in text.splitlines() if line.strip().startswith(FORGED)], text


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """A product that says nasty things wherever it may say something."""
    store = tmp_path / "product.zarr"
    root = zarr.create_group(store, zarr_format=2)
    root.attrs["stac_discovery"] = {"id": NASTY, "properties": {"datetime": NASTY, "product:type": NASTY}}
    group = root.create_group("image\u202e")
    array = group.create_array("band\u2066", shape=(64, 64), chunks=(64, 64), dtype="uint16")
    array[:] = np.ones((64, 64), "uint16")
    array.attrs.update({"_ARRAY_DIMENSIONS": ["y\u200f", NASTY], "units": NASTY, "long_name": NASTY})
    group.attrs[NASTY] = NASTY
    zarr.consolidate_metadata(store)
    return store


@pytest.fixture
def item(product: Path) -> Path:
    path = product.parent / "item.json"
    assets = {NASTY: {"href": str(product), "type": "application/vnd+zarr", "title": NASTY}}
    path.write_text(json.dumps({"type": "Feature", "id": NASTY, "assets": assets, "properties": {"datetime": NASTY}}))
    return path


COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "{}"),
    "inspect --json": ("inspect", "{}", "--json"),
    "validate": ("validate", "{}"),
    "validate, missing": ("validate", "{}", "--groups", f"/{NASTY}"),
    "estimate": ("estimate", "{}"),
    "estimate, missing": ("estimate", "{}", "--groups", f"/{NASTY}"),
    "estimate --json": ("estimate", "{}", "--json"),
    "open": ("open", "{}", "--no-strict"),
    "open --json": ("open", "{}", "--no-strict", "--json"),
    "preview": ("preview", "{}", "p.png"),
    "convert": ("convert", "{}", "{}/inside.zarr"),
    "job": ("logs", NASTY),
    "nowhere": ("inspect", f"/nowhere/{NASTY}.zarr"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("how", ["store", "item"])
def test_the_command_line_shows_nothing_of_it(
    command: str,
    how: str,
    product: Path,
    item: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    main([word.replace("{}", str(product if how == "store" else item)) for word in COMMANDS[command]])
    said = capsys.readouterr()
    assert said.out + said.err
    assert_shown_safely(said.out)
    assert_shown_safely(said.err)


def test_json_says_exactly_what_there_is() -> None:
    document = {NASTY: [NASTY, "é 日本 😀", "\udc80", "\U000e0001", None, 1.5]}
    text = printable_json(document)
    assert json.loads(text) == document
    assert "é 日本 😀" in text
    assert_shown_safely(text)


@pytest.mark.parametrize("text", ["é", "日本", "naïve", "Ω≈ç√", "😀", "\N{NO-BREAK SPACE}"])
def test_what_can_be_seen_stays(text: str) -> None:
    assert printable(text) == text


KINDS = [errors.InvalidRequest, errors.ProductUnreachable, errors.JobNotFound, errors.ClusterDenied]


@pytest.mark.parametrize("make", KINDS)
def test_errors(make: Callable[..., errors.GeozarrError]) -> None:
    error = make(NASTY, given=NASTY, remedy=NASTY)
    assert len(str(error).splitlines()) == 3
    assert_shown_safely(str(error))
    assert_shown_safely("\n".join(error._render_traceback_()))


EVENTS: list[dict[str, Any]] = [
    {"type": "message", "text": NASTY},
    {"type": "log", "text": NASTY, "source": NASTY},
    {"type": "warning", "code": NASTY, "message": NASTY, "remedy": NASTY},
    {"type": "error", "code": NASTY, "message": NASTY, "given": NASTY, "remedy": NASTY, "exit_code": 5},
    {"type": "stage", "stage": NASTY, "state": "finished", "seconds": 1.0},
    {"type": "progress", "stage": "convert", "done": 1, "total": 2, "unit": NASTY},
    {"type": "result", "path": NASTY, "skipped": True, "archive": {"path": NASTY, "bytes": 1}},
    {"type": "result", "path": NASTY, "bytes_written": 1, "seconds": 1.0},
]


@pytest.mark.parametrize("fields", EVENTS, ids=lambda fields: fields["type"])
def test_events_for_a_person(fields: dict[str, Any], tmp_path: Path) -> None:
    fields = dict(fields)
    kind = fields.pop("type")
    event = Event(kind, datetime.now(UTC), fields)
    assert_shown_safely(describe(event))
    stream = io.StringIO()
    Reporter(stream, readable=True, verbose=True).emit(kind, **fields)
    assert_shown_safely(stream.getvalue())
    write_last_words(tmp_path / "words", {"type": kind, **fields})
    if kind == "error":
        assert_shown_safely((tmp_path / "words").read_text())


REQUEST = Request(source=NASTY, shown=NASTY, product=NASTY, output=NASTY, identity="0" * 64)
START = datetime(2025, 1, 1, tzinfo=UTC)
RUNNING = JobState(NASTY, "local", REQUEST, "Running", START, stage=NASTY, progress=Progress(1, 2, NASTY), reason=NASTY)
FAILED = replace(
    RUNNING, status="Failed", finished=START + timedelta(seconds=1), failure=Failure(NASTY, NASTY, NASTY, 5, False)
)


class Terminal(io.StringIO):
    """A terminal without colours or a cursor, so that each byte is somebody's words."""

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize("state", [RUNNING, FAILED], ids=lambda state: state.status)
@pytest.mark.parametrize("display", [LineDisplay, TerminalDisplay])
def test_jobs(state: JobState, display: Callable[[Any], Any]) -> None:
    assert_shown_safely(describe_state(state))
    board = Board(replace(state, status="Pending", reason=""))
    stream = Terminal()
    with display(stream) as screen:
        for _ in range(2):
            events = [Event(each["type"], START, each) for each in EVENTS]
            begun = Event("stage", START, {"stage": NASTY, "state": "started"})
            screen.draw(board, board.update(replace(state, status="Pending"), [begun, *events]))
        screen.draw(board, board.update(state, []))
    assert_shown_safely(stream.getvalue())
    assert_shown_safely(board.text)
    assert_shown_safely(board.html)


FIELDS = ("id", "stage", "state", "seconds", "done", "total", "unit", "text", "code", "message", "remedy", "given")
MORE_FIELDS = ("exit_code", "retryable", "path", "groups", "skipped", "bytes_written", "archive", "source")


def lines() -> Iterator[str]:
    time = "2025-01-01T00:00:00+00:00"
    odd: list[Any] = [None, [], {}, 10**400, -1, "x", True, 1.5, "1"]
    for kind in ("run", "stage", "progress", "message", "log", "warning", "error", "result", "other"):
        for value in odd:
            names = [*FIELDS, *MORE_FIELDS]
            yield json.dumps({"v": 1, "time": time, "type": kind, **dict.fromkeys(names, value)})
            yield json.dumps({"v": 1, "time": time, "type": kind, **dict.fromkeys(names, value), "state": "finished"})
    yield json.dumps({"v": 1, "time": "2025-01-01T00:00:00", "type": "message", "text": "no zone"})
    yield json.dumps({"v": 1, "time": time, "type": ["message"], "text": "no type"})
    yield "[" * 100_000


@pytest.mark.parametrize("line", lines())
def test_an_event_that_is_none_is_passed_over(line: str) -> None:
    event = parse(line)
    if event is not None:
        assert_shown_safely(describe(event))
        board = Board(replace(RUNNING, reason=""))
        board.update(RUNNING, [Event("stage", START, {"stage": "convert", "state": "started"}), event])
        assert_shown_safely(board.html)


def test_a_tree_of_others_is_shown_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    data = xr.Dataset({"band\u202e": (("y\u2066", "x"), np.ones((2, 2)), {"units": NASTY})}, attrs={"title": NASTY})
    data.to_zarr(tmp_path / "a.zarr", group="g\u200f", consolidated=False)
    zarr.open_group(tmp_path / "a.zarr").attrs["zarr_conventions"] = [{"name": "spatial"}]
    assert main(["open", str(tmp_path / "a.zarr")]) == 0
    assert_shown_safely(capsys.readouterr().out)
