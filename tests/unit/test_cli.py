"""Options of the command line, as the calls get them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import geozarr_nb as gz
from geozarr_nb.cli import main
from geozarr_runner.errors import ExitCode


@pytest.mark.parametrize("command", ["submit", "convert"])
def test_image_and_memory_of_a_pod(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def submit(source: str, output: str, **options: Any) -> gz.Job:
        given.update(options)
        raise gz.InvalidRequest("that is enough")

    monkeypatch.setattr(gz, "submit", submit)
    arguments = [command, "p.zarr", "out.zarr", "--backend", "argo"]
    assert main([*arguments, "--image", "runner:1", "--memory", "12Gi"]) == ExitCode.BAD_REQUEST
    assert (given["backend"], given["image"], given["memory"]) == ("argo", "runner:1", "12Gi")
    main(arguments)
    assert (given["image"], given["memory"]) == (None, None)


def test_an_amount_of_memory_that_is_none_is_refused_as_it_would_be_typed(
    sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["submit", str(sample), "out.zarr", "--backend", "argo", "--memory", "much"])
    assert code == ExitCode.BAD_REQUEST
    said = capsys.readouterr().err
    assert "memory is no amount of memory" in said
    assert "--memory 12Gi, say" in said
