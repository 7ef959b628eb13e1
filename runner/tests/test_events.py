"""What a run says of itself can always be read, by a program and by a person."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from geozarr_runner import events
from geozarr_runner.errors import ExitCode, GeozarrError, ProductNotFound, StorageFull
from geozarr_runner.events import LATER, SCHEMA_VERSION, Reporter, describe, human_bytes, parse, parse_all

ODD = [
    "ü ✓ 雪 \U0001f6f0",
    "two\nlines\r\n",
    "\x00\x1b[31mred\x07",
    'quotes " and \\',
    "\u2028\u2029\x85",
    b"\xff\xfe".decode("utf-8", "surrogateescape"),
    "x" * 1_000_000,
    "",
]


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def test_every_event_has_version_time_and_type(stream: io.StringIO) -> None:
    reporter = Reporter(stream)
    with reporter.stage("preflight") as progress:
        progress(1, 2, "chunks")
    reporter.message("hello")
    reporter.warning("a-code", "careful", "look")
    reporter.error(ProductNotFound("nothing", given=Path("/x"), remedy="look elsewhere"))
    documents = [json.loads(line) for line in stream.getvalue().splitlines()]
    for document in documents:
        assert document["v"] == SCHEMA_VERSION
        assert datetime.fromisoformat(document["time"]).tzinfo == UTC
    assert [document["type"] for document in documents] == ["stage", "progress", "stage", "message", "warning", "error"]
    assert documents[1].items() >= {"stage": "preflight", "done": 1, "total": 2, "unit": "chunks"}.items()
    assert documents[2]["seconds"] >= 0
    assert (
        documents[5].items()
        >= {
            "code": "product-not-found",
            "given": "/x",
            "remedy": "look elsewhere",
            "exit_code": 3,
            "retryable": False,
        }.items()
    )


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_nothing_breaks_the_stream(text: str, tmp_path: Path) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")  # the poorest of terminals
    reporter = Reporter(stream, verbose=True)
    reporter.open_log(tmp_path / "log.jsonl")
    reporter.emit("log", source="converter", text=text)
    reporter.message(text)
    reporter.close()
    for lines in (raw.getvalue().split(b"\n"), (tmp_path / "log.jsonl").read_bytes().split(b"\n")):
        assert lines.pop() == b""
        assert [event["text"] for event in parse_all(line.decode() for line in lines)] == [text, text]


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "null", "1", "{}", '{"time": 1, "type": "x"}', '{"time": "x"}', "plain"]
)
def test_what_is_no_event_is_passed_over(line: str) -> None:
    assert parse(line) is None
    assert list(parse_all([line])) == []


def test_fields_of_the_future_are_kept() -> None:
    event = parse('{"v": 9, "time": "2026-01-01T00:00:00+00:00", "type": "new", "more": 1}')
    assert event is not None
    assert (event.type, event["more"], event.get("none", 2)) == ("new", 1, 2)
    assert str(event) == ""


@pytest.mark.parametrize("kind", ["run", "stage", "progress", "message", "warning", "error", "result", "log"])
def test_what_a_later_version_means_is_not_guessed(kind: str) -> None:
    event = parse(json.dumps({"v": 2, "time": "2026-01-01T00:00:00+00:00", "type": kind, "text": "?"}))
    assert event is not None
    assert (event.type, event.fields, str(event)) == (LATER, {}, "")


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "progress"},
        {"type": "progress", "stage": "convert", "done": "1", "unit": "bytes"},
        {"type": "progress", "stage": "convert", "done": True, "unit": "bytes"},
        {"type": "stage", "stage": "convert", "state": "finished"},
        {"type": "stage", "stage": "convert", "state": "finished", "seconds": "long"},
        {"type": "message"},
        {"type": "message", "text": None},
        {"type": "warning", "code": "a"},
        {"type": "error", "code": 7, "message": "m"},
        {"type": "error", "code": "a", "message": "m", "exit_code": "six"},
        {"type": "result"},
        {"type": "result", "path": "/o", "bytes_written": "many"},
        {"type": "result", "path": "/o", "archive": "x"},
        {"type": "run", "id": ["x"]},
        {"type": "log"},
        {"type": ["log"], "text": "x"},
        {"type": "message", "text": "x", "v": "1"},
        {"type": "message", "text": "x", "v": None},
    ],
    ids=str,
)
def test_an_event_without_its_fields_is_none(fields: dict[str, Any]) -> None:
    assert parse(json.dumps({"v": 1, "time": "2026-01-01T00:00:00+00:00", **fields})) is None


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, '{"v": ' + "9" * 5000 + "}"], ids=range(4)
)
def test_a_line_that_no_parser_takes_is_passed_over(text: str) -> None:
    assert parse(text) is None


def test_a_time_has_a_zone() -> None:
    event = parse('{"v": 1, "time": "2026-01-01T00:00:00", "type": "message", "text": "x"}')
    assert event is not None
    assert event.time == datetime(2026, 1, 1, tzinfo=UTC)


def test_what_a_person_reads(stream: io.StringIO) -> None:
    reporter = Reporter(stream, readable=True)
    with reporter.stage("stage") as progress:
        progress(1_500_000, 3_000_000, "bytes")
    reporter.emit("log", source="converter", text="hidden")
    reporter.warning("a-code", "careful", "look")
    reporter.error(StorageFull("full", given="/out", remedy="make space"))
    text = stream.getvalue()
    for part in ("1.5 MB of 3.0 MB", "stage: done in 0.0 s", "warning: careful", "error [storage-full]: full", "/out"):
        assert part in text
    assert "make space" in text
    assert "hidden" not in text
    assert "{" not in text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"path": "/o", "bytes_written": 1_500_000, "seconds": 2.0}, "/o: 1.5 MB in 2.0 s, verified"),
        ({"path": "/o", "skipped": True}, "/o is there already, made from the same request: nothing to do"),
    ],
)
def test_the_result_in_words(fields: dict[str, Any], text: str) -> None:
    assert describe(events.Event("result", datetime.now(UTC), fields)) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e12, "2.0 TB")])
def test_sizes(count: float, text: str) -> None:
    assert human_bytes(count) == text


class Failing(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.tries = 0

    def write(self, text: str) -> int:
        self.tries += 1
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device"), ValueError("closed")])
def test_a_reader_that_is_gone_is_not_told_any_more(error: Exception, tmp_path: Path) -> None:
    stream = Failing(error)
    reporter = Reporter(stream)
    reporter.open_log(tmp_path / "log.jsonl")
    reporter.message("one")
    reporter.message("two")
    reporter.close()
    assert stream.tries == 1
    assert reporter.unheard
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_a_log_file_that_cannot_grow_does_not_end_the_run(stream: io.StringIO, tmp_path: Path) -> None:
    reporter = Reporter(stream)
    reporter.open_log(tmp_path / "log.jsonl")
    assert reporter._log is not None
    reporter._log.close()
    reporter._log = Failing(OSError(28, "No space left on device"))
    reporter.message("one")
    reporter.message("two")
    reporter.close()
    told = list(parse_all(stream.getvalue().splitlines()))
    assert [event.type for event in told] == ["warning", "message", "message"]
    assert told[0]["code"] == "log-incomplete"
    assert "No space left" in told[0]["message"]


def test_what_came_before_the_log_file_is_in_it(stream: io.StringIO, tmp_path: Path) -> None:
    reporter = Reporter(stream)
    reporter.message("early")
    reporter.open_log(tmp_path / "new" / "log.jsonl")
    reporter.message("late")
    reporter.close()
    again = Reporter(stream)
    again.open_log(tmp_path / "new" / "log.jsonl")
    again.message("another run")
    again.close()
    lines = (tmp_path / "new" / "log.jsonl").read_text().splitlines()
    assert [event["text"] for event in parse_all(lines)] == ["early", "late", "another run"]


def test_progress_never_goes_back_and_never_repeats(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SECONDS_BETWEEN_PROGRESS", 0)
    progress = Reporter(stream).progress("stage")
    for done in (1, 1, 5, 3, 6, 10, 10):
        progress(done, 10, "bytes")
    assert [event["done"] for event in parse_all(stream.getvalue().splitlines())] == [1, 5, 6, 10]


def test_progress_is_not_a_flood_and_its_end_is_told(stream: io.StringIO) -> None:
    progress = Reporter(stream).progress("stage")
    for done in range(1001):
        progress(done, 1000, "bytes")
    told = [event["done"] for event in parse_all(stream.getvalue().splitlines())]
    assert len(told) < 100
    assert told[-1] == 1000


def test_argos_progress_file(stream: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SECONDS_BETWEEN_PROGRESS", 0)
    path = tmp_path / "progress"
    replaced: list[str] = []
    replace = Path.replace

    def seen(source: Path, target: Path) -> Path:
        replaced.append(source.read_text())
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", seen)
    reporter = Reporter(stream, progress_file=str(path))
    progress = reporter.progress("convert")
    progress(1, None, "chunks")
    assert not path.exists()
    progress(2, 4, "chunks")
    assert path.read_text() == "2/4"
    progress(9, 4, "chunks")
    assert path.read_text() == "4/4"
    assert replaced == ["2/4", "4/4"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_progress_file_that_cannot_be_written_does_not_end_the_run(stream: io.StringIO, tmp_path: Path) -> None:
    progress = Reporter(stream, progress_file=str(tmp_path / "absent" / "progress")).progress("convert")
    progress(4, 4, "chunks")
    progress(5, 5, "chunks")
    told = [event.type for event in parse_all(stream.getvalue().splitlines())]
    assert told == ["progress", "warning", "progress"]


def test_every_error_has_a_code_and_an_exit_code() -> None:
    def below(kind: type[GeozarrError]) -> list[type[GeozarrError]]:
        return [kind, *(one for child in kind.__subclasses__() for one in below(child))]

    kinds = [kind for kind in below(GeozarrError) if kind.__module__ == "geozarr_runner.errors"]
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert all(isinstance(kind.exit_code, ExitCode) and kind.exit_code for kind in kinds)
    assert "given:  x" in str(StorageFull("full", given="x", remedy="go"))
    assert "remedy: go" in str(StorageFull("full", given="x", remedy="go"))
