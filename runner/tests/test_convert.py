"""The converter as a child process: its words, its end, and whatever it prints."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from geozarr_runner.converter import command as command_module
from geozarr_runner.converter import processes
from geozarr_runner.converter.command import find_converter
from geozarr_runner.converter.processes import Converters, count_chunks, last_words
from geozarr_runner.errors import (
    ConverterFailed,
    ConverterKilled,
    ConverterMissing,
    GeozarrError,
    StorageDenied,
    StorageFull,
)
from runner.tests.support import alive, until, write_store

type Script = Callable[[str], list[str]]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Write a script; returns the command that runs it."""

    def write(text: str) -> list[str]:
        path = tmp_path / "script.py"
        path.write_text(f"import os, signal, subprocess, sys, time\n{text}\n")
        return [sys.executable, str(path)]

    return write


def loaders(parent: int | None = None) -> list[int]:
    """Return the processes that load a converter, or have."""
    children = psutil.Process(parent).children()
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child.pid for child in alive if any(word.endswith("launcher.py") for word in child.cmdline())]


def lines_of(command: list[str]) -> list[str]:
    lines: list[str] = []
    Converters("").run([command], on_line=lines.append, on_tick=lambda: None)
    return lines


def failure_of(command: list[str]) -> GeozarrError:
    with pytest.raises(GeozarrError) as caught:
        lines_of(command)
    assert caught.value.given is not None
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("printed", "lines"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"no newline", ["no newline"]),
        (b"\n\n \n", []),
        (b"10%\r20%\r\n30%", ["10%", "20%", "30%"]),
        (b"\x1b[31mred\x1b[0m \x1b[2K\x1b[?25lx\n", ["red x"]),
        (b"\xff\xfe caf\xe9\n", ["\ufffd\ufffd caf\ufffd"]),
        ("déjà ✓\n".encode(), ["déjà ✓"]),
        (b"a\x00b\n", ["a\x00b"]),
        (b"", []),
    ],
)
def test_whatever_it_prints_comes_as_lines(printed: bytes, lines: list[str], script: Script) -> None:
    assert lines_of(script(f"sys.stdout.buffer.write({printed!r})")) == lines


def test_a_line_of_a_megabyte(script: Script) -> None:
    [line] = lines_of(script("print('x' * 1_000_000)"))
    assert len(line) == 1_000_000


def test_a_letter_cut_in_two_by_a_slow_writer(script: Script) -> None:
    slow = "for byte in 'ü✓\\n'.encode(): os.write(1, bytes([byte])); time.sleep(0.02)"
    assert lines_of(script(slow)) == ["ü✓"]


def test_both_streams_are_heard_and_nothing_is_asked(script: Script) -> None:
    assert lines_of(script("print(repr(sys.stdin.read()), flush=True); print('warn', file=sys.stderr)")) == [
        "''",
        "warn",
    ]


@pytest.mark.parametrize("busy", ["time.sleep(0.01)", "print('x' * 100)"])
def test_ticks_come_while_it_is_silent_and_while_it_talks(
    busy: str, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on until four have come, and without them for ever."""
    monkeypatch.setattr(processes, "TICK", 0.05)
    enough = tmp_path / "enough"
    ticks = itertools.count(1)
    Converters("").run(
        [script(f"while not os.path.exists({str(enough)!r}): {busy}")],
        on_line=lambda line: None,
        on_tick=lambda: enough.touch() if next(ticks) == 4 else None,
    )


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("sys.exit(1)", ConverterFailed, "it said nothing"),
        ("print('strange'); sys.exit(3)", ConverterFailed, "strange"),
        ("raise ValueError('too bad')", ConverterFailed, "ValueError: too bad"),
        ("print('[error] Error during conversion error=\\'no such group\\''); sys.exit(1)", ConverterFailed, "no such"),
        ("raise OSError(28, os.strerror(28))", StorageFull, "no space"),
        ("raise OSError(122, os.strerror(122))", StorageFull, "no space"),
        ("raise PermissionError(13, os.strerror(13))", StorageDenied, "could not write"),
        ("raise OSError(30, os.strerror(30))", StorageDenied, "could not write"),
        ("os.kill(os.getpid(), signal.SIGKILL)", ConverterKilled, "memory"),
        ("print('dying', flush=True); os.kill(os.getpid(), signal.SIGSEGV)", ConverterKilled, "dying"),
    ],
)
def test_why_it_ended(text: str, kind: type[GeozarrError], words: str, script: Script) -> None:
    failure = failure_of(script(text))
    assert type(failure) is kind
    assert words in failure.message


def test_its_own_last_words_count() -> None:
    traceback = ["Traceback (most recent call last):", '  File "x"', "KeyError: 'a'", "cleaning up"]
    assert last_words(traceback) == "KeyError: 'a'"
    assert last_words([*traceback, "numpy.exceptions.AxisError: 3", "bye"]) == "numpy.exceptions.AxisError: 3"
    assert last_words(["Error during conversion  error='the reason' more", *traceback]) == "the reason' more"
    assert len(last_words(["ValueError: " + "x" * 10_000])) == 500
    assert last_words([]) == "it said nothing"


def test_a_reader_that_fails_ends_it(script: Script, tmp_path: Path) -> None:
    """An interrupt, say. Its children end with it."""
    pids: list[int] = []

    def fail(line: str) -> None:
        pids.extend(map(int, line.split()))
        raise KeyboardInterrupt

    child = "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    with pytest.raises(KeyboardInterrupt):
        Converters("").run(
            [script(f"{child}print(os.getpid(), child.pid, flush=True); time.sleep(600)")],
            on_line=fail,
            on_tick=lambda: None,
        )
    assert len(pids) == 2
    until(lambda: not any(map(alive, pids)))


def test_one_that_will_not_end_is_killed(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SECONDS_TO_END", 0.2)
    pids: list[int] = []

    def fail(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(KeyboardInterrupt):
        Converters("").run([script(stubborn)], on_line=fail, on_tick=lambda: None)
    until(lambda: not alive(pids[0]))


def test_it_ends_with_a_parent_that_was_killed(script: Script, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = script(f"open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    runner = (
        "from geozarr_runner.converter.processes import Converters\n"
        f"Converters('').run([{command!r}], on_line=print, on_tick=lambda: None)"
    )
    with subprocess.Popen([sys.executable, "-c", runner]) as process:
        pid = int(until(lambda: mark.exists() and mark.read_text()))
        process.send_signal(signal.SIGKILL)
    until(lambda: not alive(pid))


def test_one_is_loaded_while_there_is_nothing_to_convert() -> None:
    lines: list[str] = []
    with Converters(find_converter(), {"COLUMNS": "200"}, load=2) as converters:
        assert len(loaders()) == 2
        converters.run([[find_converter(), "convert", "--help"]] * 2, on_line=lines.append, on_tick=lambda: None)
        assert sum("usage: eopf-geozarr convert" in line for line in lines) == 2
    assert loaders() == []


def test_another_number_than_was_loaded_is_started_as_it_has_to_be(script: Script) -> None:
    """Also when all that were loaded have ended with an earlier number."""
    lines: list[str] = []
    command = script("import os; print(os.environ.get('OF_THE_LOADED'), os.environ.get('OF_OTHERS'))")
    with Converters(find_converter(), {"OF_THE_LOADED": "1"}, load=2) as converters:
        for count in (1, 2):
            converters.run([command] * count, {"OF_OTHERS": "2"}, on_line=lines.append, on_tick=lambda: None)
            assert loaders() == []
    assert lines == ["None 2"] * 3


def test_what_was_loaded_in_vain_ends() -> None:
    with Converters(find_converter(), load=1):
        assert len(loaders()) == 1
    assert loaders() == []


def test_a_command_of_elsewhere_is_not_loaded(script: Script) -> None:
    lines: list[str] = []
    command = script("print(sys.argv[1:] + sys.stdin.readlines())")
    with Converters(command[1], load=1) as converters:
        assert loaders() == []
        converters.run([[*command, "one"]], on_line=lines.append, on_tick=lambda: None)
    assert lines == ["['one']"]


def test_the_failure_of_a_loaded_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "COMMAND", "pip")
    with (
        Converters(str(Path(sys.executable).with_name("pip")), load=1) as converters,
        pytest.raises(ConverterFailed, match="unknown command"),
    ):
        converters.run([["pip", "no-such-command"]], on_line=lambda line: None, on_tick=lambda: None)


def test_what_is_loaded_ends_with_a_parent_that_was_killed() -> None:
    runner = (
        "import time\nfrom geozarr_runner.converter.command import find_converter\n"
        "from geozarr_runner.converter.processes import Converters\n"
        "with Converters(find_converter(), load=1): time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", runner]) as process:
        (loader,) = until(lambda: loaders(process.pid))
        process.kill()
    until(lambda: not alive(loader))


def test_it_is_found_beside_this_python_or_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path(find_converter()).name == "eopf-geozarr"
    monkeypatch.setattr(command_module.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ConverterMissing) as caught:
        find_converter()
    assert caught.value.given == sys.executable
    assert "pip install" in caught.value.remedy
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "eopf-geozarr"
    command.touch(0o755)
    assert find_converter() == os.fspath(command)


def test_objects_of_data_are_counted(tmp_path: Path) -> None:
    store = write_store(
        tmp_path / "o.zarr",
        {"zarr.json": {}, "a/zarr.json": {}, "a/c/0/0": b"x", "a/c/0/1": b"x", "a/c/1.partial": b"x"},
    )
    assert count_chunks(store) == 2
    assert count_chunks(tmp_path / "absent") == 0
