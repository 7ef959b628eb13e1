"""Options of the command line, as the calls get them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import geozarr_nb as gz
from geozarr_nb.cli import main
from geozarr_runner.errors import ExitCode


@pytest.mark.parametrize("command", ["submit", "convert"])
def test_what_a_pod_gets(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def submit(source: str, output: str, **options: Any) -> gz.Job:
        given.update(options)
        raise gz.InvalidRequest("that is enough")

    monkeypatch.setattr(gz, "submit", submit)
    arguments = [command, "p.zarr", "out.zarr", "--backend", "argo"]
    wanted = {"image": "runner:1", "memory": "12Gi", "cpu": "500m", "time_limit": "60"}
    options = [word for name, value in wanted.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert main([*arguments, *options]) == ExitCode.BAD_REQUEST
    assert given["backend"] == "argo"
    assert {name: given[name] for name in wanted} == wanted
    given.clear()
    main(arguments)
    assert not given.keys() & wanted.keys()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [([], None), (["--archive"], True), (["--archive", "true"], True), (["--archive=false"], False)],
)
def test_whether_it_is_packed(options: list[str], wanted: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def submit(source: str, output: str, **options: Any) -> gz.Job:
        given.update(options)
        raise gz.InvalidRequest("that is enough")

    monkeypatch.setattr(gz, "submit", submit)
    main(["convert", "p.zarr", "out.zarr", *options])
    assert given.get("archive") is wanted


def test_whether_integers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []

    def call(*_: Any, packed: bool = False, **__: Any) -> gz.Job:
        given.append(packed)
        raise gz.InvalidRequest("that is enough")

    for name in ("submit", "estimate"):
        monkeypatch.setattr(gz, name, call)
    for words in (["convert", "p.zarr", "out.zarr"], ["estimate", "p.zarr"]):
        main(words)
        main([*words, "--packed"])
    assert given == [False, True, False, True]


def test_an_amount_of_memory_that_is_none_is_refused_as_it_would_be_typed(
    sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["submit", str(sample), "out.zarr", "--backend", "argo", "--memory", "much"])
    assert code == ExitCode.BAD_REQUEST
    said = capsys.readouterr().err
    assert "memory is no amount of memory" in said
    assert "--memory 12Gi, say" in said
