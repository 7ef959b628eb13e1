"""What is to be typed: a name in a remedy or a printed command is one word, whatever it holds."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import zarr

import geozarr_nb as gz
from geozarr_nb.backends.argo.workflow import output_address
from geozarr_nb.claims.address import Address
from geozarr_nb.cluster.cause import make
from geozarr_nb.cluster.diagnostics import replace_claim
from geozarr_nb.doctor.machine import check_groups
from geozarr_nb.errors import GeozarrError, InvalidRequest
from geozarr_nb.widgets.request.code_snippets import argo_command, python_call
from geozarr_runner.planning.groups import GroupReport
from geozarr_runner.publishing.local import output_path
from geozarr_runner.spec.request import Words, as_text, normalise
from geozarr_runner.text.shell import in_shell, literal, word

# Names that a shell, Python or a reader of remedies could take for more.
NAMES = [
    "plain.zarr",
    "a b.zarr",
    "a'b.zarr",
    'a"b.zarr',
    "a'\"b.zarr",
    "a; touch hacked",
    "a$(touch hacked)`touch hacked`",
    "a\ntouch hacked",
    "a\\",
    "a\\'; touch hacked; '",
    "a\x1b[2J\u202e",
    'x output="; touch hacked; "',
    "x output='; touch hacked; '",
    'x\\\' output="; touch hacked; "',
    ') gz.convert("; touch hacked; ',
    "x groups=['; touch hacked ;']",
    "-rf",
    "*",
    "~",
    "#a",
    "",
    "é ü",
]


def words(command: str, folder: Path) -> list[str]:
    """Return the words that bash makes of a command, which is run with nothing that it could do."""
    script = f'show() {{ printf "%s\\0" "$@"; }}\nset -f\nshow {command}\n'
    command_line = ["bash", "-c", script]
    run = subprocess.run(command_line, capture_output=True, cwd=folder, check=True, env={"PATH": "/usr/bin:/bin"})
    assert not (folder / "hacked").exists(), command
    return run.stdout.decode(errors="surrogateescape").split("\0")[:-1]


@pytest.mark.parametrize("name", NAMES)
def test_a_word_is_one_and_in_one_line(name: str, tmp_path: Path) -> None:
    spelled = word(name)
    assert spelled.isprintable() or "é" in spelled
    assert words(spelled, tmp_path) == [name]
    assert word("a b") == "'a b'"
    assert word("a/b.zarr") == "a/b.zarr"


@pytest.mark.parametrize("name", NAMES)
def test_a_literal_is_one(name: str) -> None:
    assert "\n" not in literal(name)
    assert ast.literal_eval(literal(name)) == name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spell", [literal, repr])
def test_a_remedy_in_a_shell_has_the_name_as_one_word(name: str, spell: object, tmp_path: Path) -> None:
    quoted = spell(name)  # type: ignore[operator]
    for remedy, before in (
        (f"gz.convert({quoted})", ["geozarr-nb", "convert"]),
        (f"output={quoted}", []),
        (f"groups={quoted}", ["--groups"]),
        (f"geozarr_nb.get_job({quoted}).wait()", ["geozarr-nb", "wait"]),
    ):
        found = words(in_shell(remedy), tmp_path)
        assert found[: len(before)] == before
        assert set(found[len(before) :]) == {name}, in_shell(remedy)
        assert "\n" not in in_shell(remedy)


@pytest.mark.parametrize("name", [name for name in NAMES if name])
@pytest.mark.parametrize("spell", [literal, repr])
def test_a_list_of_groups_in_a_shell_is_the_same_list(name: str, spell: object, tmp_path: Path) -> None:
    quoted = spell(name)  # type: ignore[operator]
    spelled = in_shell(f"groups=[{quoted}, {quoted}, '/other']")
    option, *found = words(spelled, tmp_path)
    assert option == "--groups"
    assert normalise(Words(found)) == (f"/{name}", "/other")
    assert "\n" not in spelled


@pytest.mark.parametrize("name", NAMES)
def test_what_is_a_word_already_stays_one(name: str, tmp_path: Path) -> None:
    assert words(in_shell(f"mkdir -p {word(name)}"), tmp_path) == ["mkdir", "-p", name]
    assert words(in_shell(f"ls {literal(name)}"), tmp_path)[0] == "ls"


def remedies(name: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what is said of something of this name, with the name as it should stand there."""

    def said(call: object, *arguments: object, **options: object) -> str:
        with pytest.raises(GeozarrError) as raised:
            call(*arguments, **options)  # type: ignore[operator]
        return raised.value.remedy

    yield said(gz.open, folder / "none" / name), str(folder / "none" / name)
    yield said(gz.sample_product, folder / name / "below" / "s.zarr"), str(folder / name / "below")
    store = folder / "a.zarr"
    if not store.exists():
        zarr.open_group(store, mode="w")
    named = folder / name
    zarr.open_group(named, mode="w", zarr_format=2)
    zarr.consolidate_metadata(named)
    yield said(gz.open, named), str(named)


@pytest.mark.parametrize("name", [name for name in NAMES if name and name != "~"])
def test_remedies_that_name_a_path(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    for remedy, path in remedies(name, folder):
        for said in (remedy, in_shell(remedy)):
            assert "\n" not in said
            assert literal(path) in said or word(path) in said, said
    with pytest.raises(InvalidRequest) as home:
        output_path("/")
    assert word("/out.zarr") in home.value.remedy


@pytest.mark.parametrize("near", [True, False])
def test_groups_that_a_product_names(near: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = "/r10m; touch hacked; '"
    suggestions = {"/r20m": (bad,)} if near else {}
    found = GroupReport("p", ("/r20m",), (), ("/r20m",), {}, (bad,), suggestions)
    with pytest.raises(GeozarrError) as raised:
        found.raise_for_missing(all_needed=True)
    assert word(f'["{bad}"]') in raised.value.remedy
    monkeypatch.setattr("geozarr_runner.planning.groups.report", lambda *_: found)
    monkeypatch.setattr("geozarr_runner.planning.estimate.estimate", lambda *_: None)
    [finding], _ = check_groups(None, "r20m")  # type: ignore[arg-type]
    assert words(in_shell(finding.remedy), tmp_path) == ["--groups", f'["{bad}"]']


def test_stores_that_an_item_names(tmp_path: Path) -> None:
    assets = {key: {"href": f"https://h.example/{key}; touch hacked;'.zarr"} for key in "abcdefghijklmnop"}
    with pytest.raises(InvalidRequest) as raised:
        gz.inspect({"id": "i", "assets": assets})
    listed = raised.value.remedy.partition(": ")[2]
    stores = [f"https://h.example/{key}; touch hacked;'.zarr" for key in "abcdefghij"]
    assert words(listed.replace(", ", " "), tmp_path) == stores


@pytest.mark.parametrize("claim", ["a; touch hacked", "a b", "a\nb", "$(id)", "A", "..", "", "-a"])
def test_no_claim_has_such_a_name(claim: str) -> None:
    for parse in (Address.parse, lambda text: output_address(text, "geozarr-pvc")):
        with pytest.raises(InvalidRequest) as raised:
            parse(f"pvc://{claim}/a.zarr")
        assert "\n" not in raised.value.remedy


@pytest.mark.parametrize("name", NAMES)
def test_commands_that_are_printed(name: str, tmp_path: Path) -> None:
    assert words(make("pvc", PVC_NAME=f"x{name}"), tmp_path) == ["make", "pvc", f"PVC_NAME=x{name}"]
    first, _, second = replace_claim(f"x{name}", "argo").partition(" && make ")
    assert words(first, tmp_path)[-1] == f"x{name}"
    assert words(second, tmp_path)[-1] == f"PVC_NAME=x{name}"
    arguments = {"output": f"o/{name}", "groups": [f"/{name}"], "validate_groups": False, "if_exists": "error"}
    arguments |= {"backend": "local", "image": name, "memory": None, "cpu": None, "time_limit": None}
    command = argo_command(f"https://h.example/{name.replace('#', '')}", arguments, gz.Settings())
    assert f"groups={as_text([f'/{name}'])}" in words(command, tmp_path)
    assert "\n" not in command
    tree = ast.parse(python_call(f"/data/{name}", arguments, gz.Settings()))
    assert f"o/{name}" in [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
