"""One declaration: signatures, command lines, parameters, documents and pages say the same as it."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import geozarr_nb as gz
from geozarr_nb.arguments import build_parser
from geozarr_nb.cli import COMMANDS
from geozarr_nb.pods import JOB_ARGUMENTS
from geozarr_runner.cli import _parser
from geozarr_runner.spec.options import ARGUMENTS, OPTIONS, RESULT, Option, resolved
from geozarr_runner.spec.parameters import from_parameters, parameters
from geozarr_runner.spec.request import Request

ROOT = Path(__file__).parents[2]
CALLS: dict[Callable[..., object], dict[str, Option]] = {
    gz.submit: JOB_ARGUMENTS,
    gz.check: JOB_ARGUMENTS,
    gz.convert: JOB_ARGUMENTS,
    gz.submit_many: ARGUMENTS,
    gz.estimate: RESULT,
}


def others(option: Option) -> list[Any]:
    """Return values of an option that are not what is assumed without it."""
    if option.is_truth:
        return [True]
    if option.values:
        return [value for value in option.values if value != option.assumed]
    return [7] if isinstance(option.assumed, int) else ["/fast"]


CHOICES = [(name, value) for name, option in OPTIONS.items() for value in others(option)]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_signature_has_every_option_with_its_default(call: Callable[..., object]) -> None:
    shown = inspect.signature(call).parameters
    for name, option in CALLS[call].items():
        wanted = "skip" if (call, name) == (gz.submit_many, "if_exists") else option.default
        assert shown[name].default == wanted
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
        said = inspect.getdoc(call) or ""
        assert f"\n{name}\n    " in said
        assert f" {name} {option.help[0].upper()}{option.help[1:]}." in " ".join(said.split())
    assert not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in shown.values())


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    manager_of = pytest.importorskip("jupyter_client.manager", reason="make jupyter installs kernels")
    pytest.importorskip("ipykernel", reason="make jupyter installs kernels")
    manager, client = manager_of.start_new_kernel(cwd=str(tmp_path_factory.mktemp("kernel")))
    client.execute_interactive("import geozarr_nb as gz", timeout=120)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_a_kernel_shows_every_option(kernel: Any) -> None:
    found = kernel.inspect("gz.convert", detail_level=0, reply=True, timeout=120)["content"]["data"]["text/plain"]
    for name, option in JOB_ARGUMENTS.items():
        assert f"{name}" in found
        assert f"{option.help[0].upper()}{option.help[1:]}." in " ".join(found.split())
    plain = re.sub(r"\x1b\[[0-9;]*m", "", found)
    assert re.search(r"packed:\s*'?bool'?\s*=\s*False", plain), plain[:2000]


def test_a_kernel_completes_an_option(kernel: Any) -> None:
    typed = "gz.convert(pac"
    found = kernel.complete(typed, len(typed), reply=True, timeout=120)["content"]["matches"]
    assert any(match.endswith("packed=") for match in found), found


MISTAKES = """
import geozarr_nb as gz
from geozarr_nb.api.job_sets import submit_many
from geozarr_nb.api.products import estimate
from geozarr_nb.api.submission import convert, submit
convert("p", "o", packed=True, groups=["a"], if_exists="skip", memory="8Gi")
submit_many(["p"], packed=True)
convert("p", "o", pakced=True)
submit("p", "o", if_exists="replace")
submit_many(["p"], memory="8Gi")
estimate("p", archive=True)
convert("p", "o", packed="yes")
"""


def test_a_type_checker_refuses_a_misspelt_option(tmp_path: Path) -> None:
    script = tmp_path / "mistakes.py"
    script.write_text(MISTAKES)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", script]  # with the cache of `make lint`
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = MISTAKES.splitlines()
    wrong = [lines[int(line.split(":")[1]) - 1] for line in ended.stdout.splitlines() if ": error:" in line]
    assert wrong == lines[7:], ended.stdout


def test_what_is_misspelt_says_what_was_meant() -> None:
    with pytest.raises(gz.InvalidRequest, match="has no argument pakced") as caught:
        gz.submit("p.zarr", "o.zarr", pakced=True)  # type: ignore[call-arg]
    assert "packed" in caught.value.remedy
    with pytest.raises(gz.InvalidRequest, match="has no argument archive"):
        gz.estimate("p.zarr", archive=True)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "value"), [*((name, "perhaps") for name in OPTIONS if name != "scratch"), ("scratch", 3)]
)
def test_a_value_that_an_option_cannot_have(name: str, value: object) -> None:
    with pytest.raises(gz.InvalidRequest, match=f"no value of {name}"):
        resolved({name: value})


@pytest.mark.parametrize(("name", "value"), CHOICES)
def test_an_option_travels_in_the_request(name: str, value: Any) -> None:
    request = Request(source="/p", shown="/p", product="p", output="/o", options={name: value})  # type: ignore[misc]
    back = Request.from_json(json.loads(json.dumps(request.to_json())))
    assert back == request
    assert getattr(back, name) == back.options[name] == value  # type: ignore[literal-required]
    plain = Request(source="/p", shown="/p", product="p", output="/o")
    assert (request.derived_identity != plain.derived_identity) is (name in RESULT)


@pytest.mark.parametrize(("name", "value"), CHOICES)
def test_an_option_travels_in_the_workflow(name: str, value: Any) -> None:
    sent = parameters((), resolved({name: value}))
    assert from_parameters(sent)[name] == (OPTIONS[name].assumed if OPTIONS[name].of_machine else value)  # type: ignore[literal-required]
    assert ("options" in sent) is not (OPTIONS[name].parameter or OPTIONS[name].of_machine)


@pytest.mark.parametrize(("name", "value"), CHOICES)
@pytest.mark.parametrize("where", ["runner", "runner, JSON", "SDK"])
def test_both_command_lines_take_it(name: str, value: Any, where: str) -> None:
    words = ["convert", "p.zarr", "o.zarr"]
    if where == "runner, JSON":
        given = _parser().parse_args([*words, "--options", json.dumps({name: value})])
        assert given.options == {name: value}
        return
    option = OPTIONS[name]
    words += [option.spelled] if option.is_truth else [option.spelled, str(value)]
    parser = _parser() if where == "runner" else build_parser(COMMANDS)
    assert getattr(parser.parse_args(words), name) == value
    assert not hasattr(parser.parse_args(words[:3]), name), "what is not given is not told"


def test_the_template_is_of_this_declaration() -> None:
    document = yaml.safe_load((ROOT / "workflows" / "geozarr-convert-template.yaml").read_text())
    known = {entry["name"]: entry for entry in document["spec"]["arguments"]["parameters"]}
    for name, option in ARGUMENTS.items():
        assert (name in known) is option.parameter
        if option.is_truth or option.values:
            assert (name not in known) or known[name]["value"] == str(option.assumed).lower()
    assert known["options"]["value"] == "{}"
    [template] = document["spec"]["templates"]
    spelled = {word.split("=", 1)[0] for word in template["container"]["args"]}
    assert {option.spelled for option in ARGUMENTS.values() if option.parameter} <= spelled
