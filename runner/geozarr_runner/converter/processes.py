"""Runs converters as processes, and measures their progress by the objects that they have written."""

from __future__ import annotations

import errno
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import IO, Any, Self, cast

from geozarr_runner.converter.command import COMMAND, python_of
from geozarr_runner.errors import ConverterFailed, ConverterKilled, StorageDenied, StorageFull
from geozarr_runner.kinds.base import ConverterCall
from geozarr_runner.kinds.layout import NO_OPTIONS
from geozarr_runner.spec.options import converter_flags
from geozarr_runner.trust.credentials import without

TICK = 0.5
LINES_KEPT = 200
SECONDS_TO_END = 10
# Messages of a full disk, a used-up quota, and a limit on the size of files.
NO_SPACE = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
# What leads a Python to packages of another environment than its own.
OF_THIS_PYTHON = ("PYTHONPATH", "PYTHONHOME")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_OWN_ERROR = re.compile(r"(?:Error during conversion|Error starting dask cluster).*?error=(?P<text>.+)$")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt)\b")


def build_argv(
    converter: str, source: str, output: str, call: ConverterCall, options: Mapping[str, Any] = NO_OPTIONS
) -> list[str]:
    """Return the converter's command line: input and output positional, all groups behind one `--groups`."""
    argv = [converter, call.command, source, output]
    if call.groups:
        argv += ["--groups", *call.groups]
    return [*argv, *call.flags, *converter_flags(options, call.lacks)]


class Converters:
    """The converters of one run; all of them end with the block.

    A converter takes seconds to load. Converters can be loaded early, while their input is still being downloaded.

    Parameters
    ----------
    command
        The path that `find_converter` returns.
    environment
        Variables for the loaded converters. A variable of this process has precedence.
    load
        Number of converters to load early; 0 if the command is not the script that an installer wrote.
    about
        Text for the list of processes, until a converter has its command line: the folder that it will write in.
    """

    def __init__(
        self, command: str, environment: Mapping[str, str] | None = None, *, load: int = 0, about: object = ""
    ) -> None:
        self.command = command
        self._environment = environment or {}
        is_own = Path(command).parent == Path(sys.executable).parent
        known = entry_points(group="console_scripts", name=COMMAND) if is_own else python_of(command)
        python = sys.executable if is_own else python_of(command)
        self._load = load if known else 0
        self._lacks = OF_THIS_PYTHON if python and not is_own else ()
        self._loader = [python, "-P", str(Path(__file__).with_name("launcher.py")), COMMAND, str(about)]
        self._waiting: list[_Converter] = []
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        with self._cleanup:
            self._waiting = [self._start(self._loader, waits=True) for _ in range(self._load)]
            self._cleanup = self._cleanup.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def run(
        self,
        commands: Sequence[Sequence[str]],
        environment: Mapping[str, str] | None = None,
        *,
        on_line: Callable[[str], None],
        on_tick: Callable[[], None],
    ) -> None:
        """Run one converter for each command line, all at the same time, until they end.

        The first converter that fails ends the others. If as many converters were loaded early as there are command
        lines, these are used; otherwise they end, and new ones are started.

        Parameters
        ----------
        commands
            The command lines.
        environment
            Variables for new converters; None takes the variables of the loaded ones.
        on_line
            Called with every line that a converter prints, without colours.
        on_tick
            Called about twice a second.

        Raises
        ------
        ConverterFailed, ConverterKilled, StorageFull, StorageDenied
            A converter failed; exit code and last lines tell which error it is. Exit code 0 does not prove success:
            see `verify`.
        """
        running: dict[IO[bytes], _Converter] = {}
        if len(commands) != len(self._waiting):
            self._end()
        try:
            for argv in commands:
                if self._waiting:
                    converter = self._waiting.pop()
                    converter.tell(argv)
                else:
                    converter = self._start(argv, environment)
                running[converter.stream] = converter
            for stream, line in _lines(list(running), on_tick):
                converter = running[stream]
                if line is None:  # the converter closed its output: it has ended or is about to
                    if (code := converter.process.wait()) != 0:
                        raise _failure(code, converter.last)
                    continue
                converter.last.append(line)
                on_line(line)
                if any(words in line for words in NO_SPACE):  # the converter would repeat the write for ever
                    raise _failure(1, converter.last)
        finally:
            self._end()

    def _end(self) -> None:
        """End all converters."""
        self._waiting.clear()
        self._cleanup.close()

    def _start(
        self, argv: Sequence[str], environment: Mapping[str, str] | None = None, *, waits: bool = False
    ) -> _Converter:
        variables = self._environment if environment is None else environment
        converter = _Converter(argv, variables, lacks=self._lacks, waits=waits)
        self._cleanup.callback(converter.end)
        return converter


class _Converter:
    """One converter process, and the last lines that it printed.

    Parameters
    ----------
    argv
        The command line of the process.
    environment
        Variables of the process. A variable of this process has precedence.
    lacks
        Variables of this process that the process does not get.
    waits
        True for a process that loads the converter and then waits for its command line.
    """

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], *, lacks: Collection[str] = (), waits: bool = False
    ) -> None:
        tether = [sys.executable, "-I", "-S", str(Path(__file__).with_name("child_launcher.py")), str(os.getpid())]
        own = {name: value for name, value in without(os.environ).items() if name not in lacks}
        self.last: deque[str] = deque(maxlen=LINES_KEPT)
        self.process = subprocess.Popen(
            [*tether, *argv],
            stdin=subprocess.PIPE if waits else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment, **own, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
            process_group=0,  # a group of its own, so that the processes that it starts end with it
        )
        self.stream = cast(IO[bytes], self.process.stdout)

    def tell(self, argv: Sequence[str]) -> None:
        """Send the command line to a converter that waits for it."""
        with suppress(BrokenPipeError), cast(IO[bytes], self.process.stdin) as line:  # its exit code tells why it ended
            line.write(json.dumps(argv).encode() + b"\n")

    def end(self) -> None:
        """End the converter and all processes that it started."""
        self.stream.close()
        if self.process.stdin is not None:
            self.process.stdin.close()
        for step in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, step)
            if self.process.poll() is not None:
                continue
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(SECONDS_TO_END)


def count_chunks(store: Path) -> int:
    """Return the number of data objects in a store: files that are neither metadata nor half-written."""
    count = 0
    folders = [store]
    while folders:
        with suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif entry.name != "zarr.json" and "partial" not in entry.name:
                    count += 1
    return count


def _lines(streams: Sequence[IO[bytes]], on_tick: Callable[[], None]) -> Iterator[tuple[IO[bytes], str | None]]:
    """Yield the lines of several streams as they come, and None when a stream ends.

    A carriage return ends a line too, since progress bars use it.
    """
    rest = dict.fromkeys(streams, b"")
    next_tick = time.monotonic() + TICK
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(max(next_tick - time.monotonic(), 0)):
                stream = cast(IO[bytes], key.fileobj)
                block = os.read(key.fd, 1 << 16)
                *whole, rest[stream] = re.split(rb"[\r\n]+", rest[stream] + (block or b"\n"))
                yield from ((stream, text) for line in whole if (text := _clean(line)))
                if not block:
                    selector.unregister(stream)
                    yield stream, None
            if time.monotonic() >= next_tick:
                on_tick()
                next_tick = time.monotonic() + TICK


def _clean(line: bytes) -> str:
    return _ESCAPES.sub("", line.decode("utf-8", errors="replace")).rstrip()


def _failure(code: int, last: Sequence[str]) -> Exception:
    words = last_words(last)
    remedy = "read the log file: it holds everything that the converter said"
    if code < 0:
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL:
            return ConverterKilled(
                "the converter was killed from outside, as a rule because it needed more memory than there is",
                given=name,
                remedy="give it more memory, or convert fewer groups at once (the estimate says what it needs)",
            )
        return ConverterKilled(f"the converter was ended by a signal: {words}", given=name, remedy=remedy)
    if any(words in line for line in last for words in NO_SPACE):
        return StorageFull(
            "no space was left while the converter wrote", given=words, remedy="make space, run it again"
        )
    if any("Read-only file system" in line or "PermissionError" in line for line in last):
        return StorageDenied("the converter could not write", given=words, remedy="choose another output folder")
    return ConverterFailed(f"the converter failed: {words}", given=f"exit code {code}", remedy=remedy)


def last_words(lines: Sequence[str]) -> str:
    """Return the line that tells why the converter failed."""
    for line in reversed(lines):
        if (found := _OWN_ERROR.search(line)) is not None:
            return found["text"].strip("'\"")[:500]
    for line in reversed(lines):
        if _EXCEPTION.match(line):
            return line[:500]
    return lines[-1][:500] if lines else "it said nothing"
