"""What the tests share is made once, and whoever changes it is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import replaying_converter
from tests.products import changed, made_once


def write(path: Path) -> None:
    path.mkdir()
    (path / "a").write_text("1")


def fail(path: Path) -> None:
    write(path)
    raise ValueError("a bad day")


def test_it_is_made_once(tmp_path: Path) -> None:
    first = made_once(tmp_path, "x", write)
    assert made_once(tmp_path, "x", fail) == first
    assert changed(tmp_path) == []


def test_what_failed_is_made_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a bad day"):
        made_once(tmp_path, "x", fail)
    assert (made_once(tmp_path, "x", write) / "a").read_text() == "1"


def test_what_is_changed_added_or_removed_is_told(tmp_path: Path) -> None:
    folder = made_once(tmp_path, "x", write)
    (folder / "a").write_text("22")
    (folder / "b").touch()
    assert changed(tmp_path) == ["x/a", "x/b"]
    (folder / "b").unlink()
    (folder / "a").unlink()
    assert changed(tmp_path) == ["x/a"]


def test_a_conversion_is_replayed_only_for_the_same_product_and_options(tmp_path: Path) -> None:
    converter = tmp_path / "converter"
    converter.write_text('#!/bin/sh\ncp -r "$2" "$3"\necho "$4" >>"$3/calls"\n[ "$4" != bad ]\n')
    converter.chmod(0o755)
    (tmp_path / "kept").mkdir()
    outputs = iter(range(9))

    def convert(*options: str) -> tuple[int, bool]:
        output = tmp_path / str(next(outputs))
        command = [sys.executable, "-I", "-S", replaying_converter.__file__, tmp_path / "kept", converter]
        before = len(list((tmp_path / "kept").glob("*.lock")))
        done = subprocess.run([*command, "convert", tmp_path / "product", output, *options], check=False)
        assert (output / "calls").read_text() == f"{options[0]}\n"
        assert (output / "a").read_text() == (tmp_path / "product" / "a").read_text()
        return done.returncode, len(list((tmp_path / "kept").glob("*.lock"))) > before

    write(tmp_path / "product")
    assert [convert("x"), convert("x"), convert("y")] == [(0, True), (0, False), (0, True)]
    assert [convert("bad"), convert("bad")] == [(1, True), (1, False)]
    (tmp_path / "product" / "a").write_text("2")
    assert [convert("x"), convert("x")] == [(0, True), (0, False)]


def test_what_is_said_to_start_a_run_is_there() -> None:
    root = Path(__file__).parents[2]
    lines = (root / "tests" / "runs.txt").read_text().splitlines()
    assert lines == sorted(set(lines))
    names = [(line.partition("::")[0], line.rpartition("::")[2]) for line in lines]
    assert [(path, name) for path, name in names if f"def {name}(" not in (root / path).read_text()] == []
