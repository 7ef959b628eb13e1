"""Events: what a run says of itself, one JSON object a line.

Every event has `v` (the schema's version), `time` (UTC, ISO 8601) and `type`:

========  =====================================================================================
type      fields
========  =====================================================================================
run       id: the first event of a run that was given one; an output's log file may hold several runs
stage     stage (preflight, stage, convert, verify, publish, and archive where one was asked for), state (started,
          finished), seconds
progress  stage, done, total (null while unknown), unit (bytes, chunks, variables)
message   text: one clean line for a person
warning   code, message, remedy
error     code, message, given, remedy, exit_code, retryable
result    path, groups, skipped, bytes_read, bytes_written, seconds, versions, identity, archive (path, bytes, sha256;
          null where none was asked for)
log       source, text: a line of the converter's; in the log file, in the stream where that is asked for
========  =====================================================================================

A reader passes over types and fields that it does not know; `v` grows only when a field changes its meaning. `parse`
gives an event of a later `v` as one of the type "later", without fields.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Literal, TextIO

from geozarr_runner.errors import GeozarrError
from geozarr_runner.text.printable import CONVERTERS_LINE, printable
from geozarr_runner.text.shell import in_shell
from geozarr_runner.trust import folders
from geozarr_runner.trust.bounds import from_json

SCHEMA_VERSION = 1
# Those of every run; "archive" is there only where one was asked for.
STAGES = ("preflight", "stage", "convert", "verify", "publish")
Stage = Literal["preflight", "stage", "convert", "verify", "publish", "archive"]
Unit = Literal["bytes", "chunks", "variables"]
Progress = Callable[[int, int | None, Unit], None]
SECONDS_BETWEEN_PROGRESS = 0.1
LATER = "later"  # the type of an event that a later version has written
_TEXT, _NUMBER, _COUNT, _NONE = (str,), (int, float), (int,), (type(None),)
_NEEDED: dict[str, dict[str, tuple[type, ...]]] = {
    "run": {"id": _TEXT},
    "stage": {"stage": _TEXT, "state": _TEXT},
    "progress": {"stage": _TEXT, "done": _COUNT, "total": (*_COUNT, *_NONE), "unit": _TEXT},
    "message": {"text": _TEXT},
    "warning": {"code": _TEXT, "message": _TEXT, "remedy": (*_TEXT, *_NONE)},
    "error": {"code": _TEXT, "message": _TEXT, "remedy": (*_TEXT, *_NONE), "exit_code": (*_COUNT, *_NONE)},
    "result": {
        "path": _TEXT,
        "bytes_written": (*_NUMBER, *_NONE),
        "seconds": (*_NUMBER, *_NONE),
        "archive": (dict, *_NONE),
    },
    "log": {"text": _TEXT},
}
CLEAR_LINE = "\r\x1b[K"


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it was read back from a stream."""

    type: str
    time: datetime
    fields: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field, or `default` where this event has none of that name."""
        return self.fields.get(name, default)

    def __str__(self) -> str:
        return describe(self)


def parse(line: str) -> Event | None:
    """Read one line of a stream; None for a line that is no event (a half-written last one, say).

    What lies beside an output may be anybody's: an event without its fields is none. One whose `v` is a later version's
    has the type "later", and no fields, where its type is a known one: what they mean is not known here.
    """
    try:
        document = from_json(line)
        time = datetime.fromisoformat(document.pop("time"))
        kind = document.pop("type")
        version = document.pop("v", SCHEMA_VERSION)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if not isinstance(kind, str) or not isinstance(version, int):
        return None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    if version > SCHEMA_VERSION and kind in _NEEDED:
        return Event(LATER, time)
    return Event(kind, time, document) if _is_whole(kind, document) else None


def _is_whole(kind: str, fields: Mapping[str, Any]) -> bool:
    """Return whether an event has the fields that its readers count on: logs may be made by anybody."""
    needed = _NEEDED.get(kind, {})
    if kind == "stage" and (fields.get("state") == "finished" or fields.get("seconds") is not None):
        needed = {**needed, "seconds": _NUMBER}
    if not all(_fits(fields.get(name), types) for name, types in needed.items()):
        return False
    archive = fields.get("archive") if kind == "result" else None
    return not archive or ("path" in archive and _fits(archive.get("bytes"), _NUMBER))


def _fits(value: object, types: tuple[type, ...]) -> bool:
    if isinstance(value, int | float):
        return type(value) in types and 0 <= value < 2**63  # what is no number is not below it either
    return isinstance(value, types)


def parse_all(lines: Iterable[str]) -> Iterator[Event]:
    """Read a stream, passing over what is no event."""
    return (event for line in lines if (event := parse(line)) is not None)


def describe(event: Event) -> str:
    """Return the event as one line for a person; empty for one that only a program needs."""

    def said(name: str) -> str:
        return printable(str(event[name]))

    match event.type:
        case "message":
            return said("text")
        case "log":
            return f"{CONVERTERS_LINE}{printable(str(event['text']).expandtabs())}"
        case "warning":
            return f"warning: {said('message')}" + (f" ({said('remedy')})" if event.get("remedy") else "")
        case "error":
            given = f"\n  given:  {said('given')}" if event.get("given") else ""
            remedy = f"\n  remedy: {said('remedy')}" if event.get("remedy") else ""
            return f"error [{said('code')}]: {said('message')}{given}{remedy}"
        case "stage" if event.get("state") == "finished":
            return f"{said('stage')}: done in {event['seconds']:.1f} s"
        case "result" if event.get("skipped"):
            todo = "" if event.get("archive") else ": nothing to do"
            return f"{said('path')} is there already, made from the same request{todo}{_archive(event)}"
        case "result":
            size, seconds = human_bytes(event.get("bytes_written") or 0), event.get("seconds") or 0
            return f"{said('path')}: {size} in {seconds:.1f} s, verified{_archive(event)}"
        case _:
            return ""


def _archive(event: Event) -> str:
    found = event.get("archive")
    return f"; as one file {printable(str(found['path']))}: {human_bytes(found['bytes'])}" if found else ""


def amount(done: int, total: int | None, unit: str) -> str:
    """Return how far a stage is: `12.5 MB of 50.0 MB`, `3 of 12 chunks`."""
    in_bytes = unit == "bytes"
    counts = [human_bytes(count) if in_bytes else str(count) for count in (done, total) if count is not None]
    return " of ".join(counts) + ("" if in_bytes else f" {unit}")


def human_bytes(count: float) -> str:
    """Return a size in decimal units, as storage is sold: 1.5 GB."""
    if count >= 10**18:  # no storage: what metadata claim may be of any size, also of more than a float has
        return f"about 10^{len(str(int(count))) - 1} B"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


class Reporter:
    """Writes the events of one run to its stream, its log file and Argo's progress file.

    Parameters
    ----------
    stream
        Where a person or a program reads along.
    readable
        True writes lines for a person, False writes JSON.
    progress_file
        Argo's `$ARGO_PROGRESS_FILE`: gets `done/total` whenever both are known.
    verbose
        Also pass on the converter's own lines.

    Attributes
    ----------
    verbose
        As the parameter; may be set.
    outcome
        The `result` or `error` event as it was written; None before there was one.
    """

    def __init__(
        self, stream: TextIO, *, readable: bool = False, progress_file: str | None = None, verbose: bool = False
    ) -> None:
        self._stream: TextIO | None = stream
        self._readable = readable
        self.verbose = verbose
        self._progress_file = Path(progress_file) if progress_file else None
        self._log: TextIO | None = None
        self._when_closed: Callable[[], None] = lambda: None
        self._before_log: list[str] = []
        self.outcome: dict[str, Any] | None = None

    def open_log(self, path: Path, when_closed: Callable[[], None] = lambda: None, *, is_named: bool = False) -> None:
        """Keep everything in `path` from here on, what came before included; the first file that opens is kept.

        Parameters
        ----------
        when_closed
            Called when all is in it.
        is_named
            A person has named it: it may be a link or a device. A log that lies beside an output is a file.
        """
        if self._log is not None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, folders.APPEND, 0o666) if is_named else folders.append(path)
        log = os.fdopen(descriptor, "a", encoding="utf-8", buffering=1)
        try:
            log.writelines(self._before_log)
        except OSError:
            with suppress(OSError):
                log.close()
            raise
        self._log, self._when_closed = log, when_closed
        self._before_log.clear()

    def close(self) -> None:
        """Close the log file, if one was opened."""
        if self._log is not None:
            with suppress(OSError):  # what could not be written is not written by closing either
                self._log.close()
            self._log = None
            self._when_closed()

    @property
    def keeps_log(self) -> bool:
        """True while there is a log file."""
        return self._log is not None

    @property
    def unheard(self) -> bool:
        """True when whoever read along is gone."""
        return self._stream is None

    def emit(self, kind: str, **fields: Any) -> None:
        """Write one event."""
        now = datetime.now(UTC)
        document = {"v": SCHEMA_VERSION, "time": now.isoformat(timespec="milliseconds"), "type": kind, **fields}
        if kind in ("result", "error"):
            self.outcome = document
        line = json.dumps(document, default=str) + "\n"  # in ASCII: names of files can be bytes that are no text
        self._keep(line)
        if self._stream is None or (kind == "log" and not self.verbose):
            return
        text = line
        if self._readable:
            # A terminal shows progress in its last line, which the next line then takes.
            match kind:
                case "log":
                    text = f"{describe(Event(kind, now, fields))}\n"
                case "progress":
                    text = printable(f"{fields['stage']}: {amount(fields['done'], fields['total'], fields['unit'])}")
                case _:
                    said = in_shell(describe(Event(kind, now, fields)))
                    text = f"{said}\n" if said else ""
            text = CLEAR_LINE + text
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            # Whoever read along is gone. The run goes on: its log file and its output are what counts.
            self._stream = None

    def _keep(self, line: str) -> None:
        if self._log is None:
            self._before_log.append(line)
            return
        try:
            self._log.write(line)
        except OSError as error:
            # The disk is full, say. If the output does not fit either, that ends the run with its own reason.
            self.close()
            self.warning("log-incomplete", f"the log file ends here: {error}", "make space where it lies")

    def message(self, text: str) -> None:
        """Say one clean line to a person."""
        self.emit("message", text=text)

    def warning(self, code: str, message: str, remedy: str = "") -> None:
        """Say what will not be as asked, while the run goes on."""
        self.emit("warning", code=code, message=message, remedy=remedy)

    def error(self, error: GeozarrError) -> None:
        """Say why the run ends."""
        self.emit(
            "error",
            code=error.code,
            message=error.message,
            given=None if error.given is None else str(error.given),
            remedy=error.remedy,
            exit_code=int(error.exit_code),
            retryable=error.retryable,
        )

    @contextmanager
    def stage(self, name: Stage) -> Iterator[Progress]:
        """Bracket a stage with its events; gives the function that reports its progress."""
        self.emit("stage", stage=name, state="started")
        start = monotonic()
        yield self.progress(name)
        self.emit("stage", stage=name, state="finished", seconds=round(monotonic() - start, 3))

    def progress(self, stage: Stage) -> Progress:
        """Return the function that reports a stage's progress; what was said last is not said again."""
        last: tuple[int, int | None] | None = None
        next_time = 0.0

        def progress(done: int, total: int | None, unit: Unit) -> None:
            nonlocal last, next_time
            now = monotonic()
            if last is not None:
                done = max(done, last[0])  # what has to be fetched again was counted already
            if last == (done, total) or (now < next_time and done != total):
                return
            last, next_time = (done, total), now + SECONDS_BETWEEN_PROGRESS
            self.emit("progress", stage=stage, done=done, total=total, unit=unit)
            if self._progress_file is not None and total:
                try:
                    _replace_text(self._progress_file, f"{min(done, total)}/{total}")
                except OSError as error:
                    self._progress_file = None
                    self.warning("progress-file", f"the progress file cannot be written: {error}")

        return progress


def _replace_text(path: Path, text: str) -> None:
    # Argo may read at any moment: it sees the old value or the new one, never half of it.
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
