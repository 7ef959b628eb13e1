"""A shell completes the command lines of both programs; bash itself is asked for what it offers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from geozarr_nb.cli import COMMANDS, main
from geozarr_nb.pods import JOB_ARGUMENTS
from geozarr_runner.spec.options import ARGUMENTS, OPTIONS

MODULES = {"geozarr-nb": "geozarr_nb", "geozarr-runner": "geozarr_runner"}
# What bash does when somebody presses the key Tab: it calls the function that `complete` names, and shows COMPREPLY.
ASK = """
set -u
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
named=$(complete -p "$1")
[[ $named =~ -F\\ ([^ ]+) ]]
"${BASH_REMATCH[1]}"
printf '%s\\n' "${COMPREPLY[@]-}"
"""
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("completion")
    made = {}
    for program, module in MODULES.items():
        command = [sys.executable, "-m", module, "--print-completion", "bash"]
        made[program] = folder / program
        made[program].write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return made


def offered(script: Path, words: str, folder: Path) -> set[str]:
    """Return what bash offers for the last word of a command line; a blank at its end begins a new word."""
    assert BASH is not None
    command = [BASH, "--norc", "-c", ASK, "bash", str(script), *words.split(" ")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("geozarr-nb ", set(COMMANDS)),
        ("geozarr-nb con", {"convert"}),
        ("geozarr-nb submit --", {option.spelled for option in JOB_ARGUMENTS.values()} | {"--backend", "--json"}),
        ("geozarr-nb submit a.zarr b.zarr --if-", {"--if-exists"}),
        ("geozarr-nb submit --if-exists ", {"error", "skip", "overwrite"}),
        ("geozarr-nb estimate --chunks w", {"web"}),
        ("geozarr-nb jobs --status F", {"Failed"}),
        ("geozarr-nb inspect prod", {"product.zarr"}),
        ("geozarr-nb convert product.zarr o", {"out"}),
        ("geozarr-runner ", {"convert", "run", "inspect", "serve"}),
        ("geozarr-runner convert --", {option.spelled for option in ARGUMENTS.values()} | {"--within", "--converter"}),
        ("geozarr-runner convert --chunks ", set(OPTIONS["chunks"].values)),
        ("geozarr-runner inspect p", {"product.zarr"}),
    ],
)
def test_bash_offers(words: str, wanted: set[str], scripts: dict[str, Path], tmp_path: Path) -> None:
    for name in ("product.zarr", "out"):
        (tmp_path / name).mkdir()
    found = offered(scripts[words.partition(" ")[0]], words, tmp_path)
    assert wanted <= found
    assert all(one.startswith(words.rpartition(" ")[2]) for one in found)


@pytest.mark.parametrize("shell", ["zsh", "fish", "tcsh"])
def test_other_shells_have_a_script_too(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", shell])
    assert not ended.value.code
    assert "if-exists" in capsys.readouterr().out


def test_without_shtab_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 2
    assert capsys.readouterr().err.rstrip().endswith("-m pip install shtab")
