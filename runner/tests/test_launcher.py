"""A command that was loaded beforehand ends as it would have ended by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from geozarr_runner.converter import launcher


def run(tmp_path: Path, body: str, words: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    (tmp_path / "of_a_test.py").write_text(f"import atexit, sys, threading, time\ndef main():\n    {body}\n")
    facts = tmp_path / "of_a_test-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: of-a-test\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[console_scripts]\nof-a-test = of_a_test:main\n")
    return subprocess.run(
        [sys.executable, "-P", str(launcher.__file__), "of-a-test"],
        input="" if words is None else json.dumps(words) + "\n",
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("body", "code", "out", "err"),
    [
        ("pass", 0, "", ""),
        ("return 3", 3, "", ""),
        ("sys.exit(4)", 4, "", ""),
        ("sys.exit('no')", 1, "", "no\n"),
        ("raise ValueError('bad')", 1, "", "ValueError: bad\n"),
        ("print(sys.argv[1:], sys.stdin.read())", 0, "['a', 'b'] \n", ""),
        ("atexit.register(print, 'last'); print('first')", 0, "first\nlast\n", ""),
        ("threading.Thread(target=lambda: (time.sleep(0.2), print('done'))).start()", 0, "done\n", ""),
    ],
)
def test_it_ends_as_the_command_does(body: str, code: int, out: str, err: str, tmp_path: Path) -> None:
    done = run(tmp_path, body, ["of-a-test", "a", "b"])
    assert (done.returncode, done.stdout) == (code, out)
    assert done.stderr.endswith(err) if err else done.stderr == ""


def test_without_a_command_line_there_is_nothing_to_do(tmp_path: Path) -> None:
    done = run(tmp_path, "print('it ran')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
