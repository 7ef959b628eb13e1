"""What is misspelt on a command line is refused like every other invalid request, with the name that is like it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import geozarr_nb.cli
import geozarr_runner.cli
from geozarr_nb.cli import COMMANDS
from geozarr_nb.pods import JOB_ARGUMENTS
from geozarr_runner.errors import ExitCode
from geozarr_runner.spec.options import ARGUMENTS

type Main = Callable[[Sequence[str]], int]

PROGRAMS: dict[str, Main] = {"geozarr-nb": geozarr_nb.cli.main, "geozarr-runner": geozarr_runner.cli.main}
COMMANDS_OF = {"geozarr-nb": tuple(COMMANDS), "geozarr-runner": ("convert", "run", "inspect", "serve")}
OPTIONS_OF = {"geozarr-nb": JOB_ARGUMENTS, "geozarr-runner": ARGUMENTS}
EVERY_PROGRAM = pytest.mark.parametrize("program", PROGRAMS)


def refused(program: str, words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """See that a command line is refused; returns the lines of the error."""
    assert PROGRAMS[program](words) == ExitCode.BAD_REQUEST
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error [invalid-request]: {program}")
    return said.err.splitlines()


@EVERY_PROGRAM
def test_a_command(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = refused(program, ["convrt", "a.zarr"], capsys)
    assert first == f"error [invalid-request]: {program} has no such command"
    assert others == ["  given:  convrt", "  remedy: did you mean convert?"]
    assert ", ".join(COMMANDS_OF[program]) in refused(program, ["qqq"], capsys)[-1]


@EVERY_PROGRAM
@pytest.mark.parametrize("words", [["--packd"], ["--packd=secret"], ["in.zarr", "out.zarr", "--packd"]])
def test_an_option(program: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Where more is wrong than the option, the option is the reason for it."""
    first, *others = refused(program, ["convert", *words], capsys)
    assert first == f"error [invalid-request]: {program} convert has no option --packd"
    assert others == ["  given:  --packd", "  remedy: did you mean --packed?"]


@EVERY_PROGRAM
def test_the_value_of_an_option(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = refused(program, ["convert", "a.zarr", "b.zarr", "--if-exists", "overwite"], capsys)
    assert first == f"error [invalid-request]: {program} convert: --if-exists has no such value"
    assert others == ["  given:  overwite", "  remedy: did you mean overwrite?"]
    assert "error, skip, overwrite" in refused(program, ["convert", "a", "b", "--if-exists", "q"], capsys)[-1]


@EVERY_PROGRAM
def test_what_resembles_nothing_names_the_help(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(program, ["inspect", "a", "--qqq"], capsys)[-1] == f"  remedy: {program} inspect --help"
    assert refused(program, ["inspect", "a", "b"], capsys)[1:] == ["  given:  b", f"  remedy: {program} inspect --help"]
    assert refused(program, [], capsys)[-1] == f"  remedy: {program} --help"


@EVERY_PROGRAM
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_option_with_one_letter_less_or_more(
    program: str, data: st.DataObject, capsys: pytest.CaptureFixture[str]
) -> None:
    known = [option.spelled for option in OPTIONS_OF[program].values()]
    option = data.draw(st.sampled_from(known))
    at = data.draw(st.integers(2, len(option) - 1))
    more = data.draw(st.sampled_from(["", "q"]))
    typed = option[:at] + more + option[at + (not more) :]
    assume(not any(one.startswith(typed) for one in (*known, "--json", "--backend", "--options")))
    remedy = refused(program, ["convert", "a.zarr", "b.zarr", typed], capsys)[-1]
    assert remedy == f"  remedy: did you mean {option}?"


@EVERY_PROGRAM
def test_no_secret_of_an_address_is_shown(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    signed = "https://me:password@host/a.zarr?X-Amz-Signature=0123456789"
    for words in (["inspect", "a.zarr", signed], ["inspect", "a", f"--{signed}"], ["convert", f"--archive={signed}"]):
        said = "\n".join(refused(program, words, capsys))
        assert "password" not in said
        assert "0123456789" not in said


def test_programs_get_it_as_json() -> None:
    command = [sys.executable, "-m", "geozarr_nb", "convert", "a.zarr", "--packd", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    error = json.loads(done.stdout)["error"]
    assert done.returncode == error["exit_code"] == ExitCode.BAD_REQUEST
    assert (error["code"], error["given"]) == ("invalid-request", "--packd")
    assert error["remedy"] == "did you mean --packed?"
