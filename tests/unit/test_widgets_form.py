"""The form: the same request as code, submitted once."""

from __future__ import annotations

import ast
import asyncio
import logging
import shlex
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import geozarr_nb as gz
from geozarr_nb.api import submission
from geozarr_nb.backends import names
from geozarr_nb.backends.argo.workflow import manifest
from geozarr_nb.widgets import Form
from geozarr_nb.widgets.request.code_snippets import argo_command, python_call
from geozarr_runner.spec.options import OPTIONS
from geozarr_runner.spec.request import Request
from tests.unit.api_server import ApiServer
from tests.unit.widgets_support import R20M, R60M, SECONDS, button, field, inside, shown

ADDRESS = "https://host.example/it's a/product.zarr"


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


class Submitted:
    """In place of `submit`: counts, and waits until it may answer."""

    def __init__(self, answer: gz.GeozarrError | None = None) -> None:
        self.calls: list[dict[str, Any]] = []
        self.may_answer = threading.Event()
        self._answer = answer

    def __call__(self, source: Any, **arguments: Any) -> Any:
        self.calls.append({"source": source, **arguments})
        assert self.may_answer.wait(SECONDS)
        if self._answer is not None:
            raise self._answer
        return type("Job", (), {"name": f"job-{len(self.calls)}"})()


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> Submitted:
    fake = Submitted()
    monkeypatch.setattr(submission, "submit", fake)
    return fake


def form_of(*arguments: Any, **options: Any) -> Form:
    form = Form(*arguments, **options)
    assert form.wait(SECONDS)
    return form


def test_it_begins_with_what_the_settings_say(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_STAC_URL", str(sample))
    monkeypatch.setenv("GEOZARR_VALIDATE_GROUPS", "true")
    form = form_of()
    assert form.arguments == {
        "output": "S2A_SAMPLE_geozarr.zarr",
        "groups": [R20M],
        "packed": False,
        "chunks": "analysis",
        "validate_groups": None,
        "if_exists": "error",
        "archive": None,
        "backend": "local",
        "image": None,
        "memory": None,
        "cpu": None,
        "time_limit": None,
    }
    assert form.ready
    assert form.request == gz.check(None, None)
    assert str(tmp_path / "S2A_SAMPLE_geozarr.zarr") in shown(form)


def test_a_name_that_was_typed_is_not_replaced(sample: Path) -> None:
    form = form_of(str(sample), groups=[R60M])
    field(form, "Output").value = "mine.zarr"
    form.choice.source = str(gz.sample_product("other.zarr", 240))
    assert form.wait(SECONDS)
    assert form.output == "mine.zarr"
    field(form, "Output").value = ""
    form.choice.source = str(sample)
    assert form.wait(SECONDS)
    assert form.output == "S2A_SAMPLE_geozarr.zarr"


def test_what_is_wrong_is_said_as_one_types(sample: Path, tmp_path: Path) -> None:
    form = form_of(str(sample), groups=[R60M])
    (tmp_path / "there.zarr").mkdir()
    form.output = "there.zarr"
    assert not form.ready
    assert form.wait(SECONDS)
    assert form.refusal is not None
    assert form.refusal.code == "output-exists"
    assert "there.zarr" in shown(form)
    assert button(form, "Convert").disabled
    form.output = "new.zarr"
    assert form.wait(SECONDS)
    assert form.ready
    assert not button(form, "Convert").disabled
    field(form, "Groups").value = "r61m"
    assert form.wait(SECONDS)
    assert not form.ready
    assert len(form.problems) == 1, "what the choice says is not said twice"
    assert f"{R60M} " in form.problems[0]


def test_groups_are_left_as_they_are_typed(sample: Path) -> None:
    form = form_of(str(sample), groups=[R60M])
    for text in ("measurements/reflectance/r20m", "measurements/reflectance/r20m, "):
        field(form, "Groups").value = text
        assert field(form, "Groups").value == text
        assert form.choice.groups == (R20M,)
    form.choice.groups = (R60M,)
    assert field(form, "Groups").value == R60M


def test_only_the_last_of_many_keystrokes_is_checked(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = form_of(str(sample), groups=[R60M])
    checked: list[str] = []
    check = gz.check

    def spy(*arguments: Any, **options: Any) -> Any:
        checked.append(options["output"])
        return check(*arguments, **options)

    monkeypatch.setattr(submission, "check", spy)
    for end in range(1, len("a-longer-name.zarr") + 1):
        form.output = "a-longer-name.zarr"[:end]
    assert form.wait(SECONDS)
    assert checked == ["a-longer-name.zarr"]


def test_a_double_click_submits_once(sample: Path, submitted: Submitted) -> None:
    form = form_of(str(sample), "out.zarr", groups=[R60M])
    convert = button(form, "Convert")
    convert.click()
    convert.click()
    assert form.submitting
    assert convert.disabled
    submitted.may_answer.set()
    assert form.wait(SECONDS)
    convert.click()
    assert form.wait(SECONDS)
    assert len(submitted.calls) == 1
    assert submitted.calls[0]["groups"] == [R60M]
    assert form.job.name == "job-1"
    assert "Submitted as job-1" in shown(form)
    form.output = "other.zarr"
    assert form.wait(SECONDS)
    convert.click()
    assert form.wait(SECONDS)
    assert [call["output"] for call in submitted.calls] == ["out.zarr", "other.zarr"]


def test_what_a_submission_waits_for_is_shown(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = form_of(str(sample), "out.zarr", groups=[R60M])
    seen: list[str] = []

    def waits(*_: Any, **__: Any) -> Any:
        others = threading.Thread(target=logging.getLogger("geozarr_nb.claims").warning, args=("of another call",))
        others.start()
        others.join()
        asyncio.run(asyncio.to_thread(logging.getLogger("geozarr_nb.claims").warning, "the pod: <image> is pulled"))
        seen.append(shown(form))
        raise gz.InvalidRequest("it never came")

    monkeypatch.setattr(submission, "submit", waits)
    form.submit()
    assert form.wait(SECONDS)
    assert "Submitting: the pod: &lt;image&gt; is pulled" in seen[0]
    assert "of another call" not in seen[0]
    assert "Submitting" not in shown(form)
    assert logging.getLogger("geozarr_nb").handlers == []


def test_what_was_refused_can_be_asked_for_again(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Submitted(gz.InvalidRequest("the disk is away", remedy="bring it back"))
    fake.may_answer.set()
    monkeypatch.setattr(submission, "submit", fake)
    form = form_of(str(sample), "out.zarr", groups=[R60M])
    form.submit()
    assert form.wait(SECONDS)
    assert "the disk is away; bring it back" in shown(form)
    assert form.job is None
    form.submit()
    assert form.wait(SECONDS)
    assert len(fake.calls) == 2


def test_nothing_is_submitted_before_it_is_ready(submitted: Submitted) -> None:
    form = form_of("nowhere.zarr")
    form.submit()
    assert form.wait(SECONDS)
    assert submitted.calls == []
    assert "nowhere.zarr" in "".join(form.problems)


def test_a_cluster_has_fields_of_its_own(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bool] = []

    def check(*_: Any, look: bool, **options: Any) -> Any:
        looked.append(look)
        raise gz.InvalidRequest(f"checked {options}")

    monkeypatch.setattr(submission, "check", check)
    form = form_of(str(sample), "out/r60m.zarr", groups=[R60M])
    assert field_labels(form).isdisjoint({"Claim", "Image", "Memory", "Cores", "Time limit"})
    form.backend = "argo"
    field(form, "Claim").value = "other-claim"
    field(form, "Image").value = "runner:1"
    field(form, "Memory").value = "12Gi"
    field(form, "Cores").value = "2"
    field(form, "Time limit").value = "3600"
    assert form.wait(SECONDS)
    assert looked == [True, False], "as one types nothing is started on a cluster"
    assert form.arguments["output"] == "pvc://other-claim/out/r60m.zarr"
    of_pods = {"image": "runner:1", "memory": "12Gi", "cpu": "2", "time_limit": 3600}
    assert {name: form.arguments[name] for name in of_pods} == of_pods
    for name, value in of_pods.items():
        assert f"{name}={value!r}" in form.code
        assert f"-p {name}={value} " in f"{form.command} "
    form.backend = "local"
    assert {form.arguments[name] for name in of_pods} == {None}


def field_labels(form: Form) -> set[str]:
    return {each.description for each in form.children[-4].children if hasattr(each, "description")}


def test_its_menus_are_those_of_the_calls() -> None:
    assert [value for _, value in field(form_of(), "Runs on").options] == list(names())
    assert set(OPTIONS["if_exists"].choices) == set(OPTIONS["if_exists"].values)


def arguments_of(**changed: Any) -> dict[str, Any]:
    return {
        "output": 'out/a "b".zarr',
        "groups": [R20M, R60M],
        "validate_groups": True,
        "if_exists": "overwrite",
        "backend": "argo",
        "image": "host/runner:1",
        "memory": "12Gi",
        "cpu": "500m",
        "time_limit": 599.5,
        **changed,
    }


def test_the_python_line_is_what_the_form_does() -> None:
    wanted = arguments_of()
    call = ast.parse(python_call(ADDRESS, wanted, gz.Settings())).body[-1].value  # type: ignore[attr-defined]
    assert [ast.literal_eval(each) for each in call.args] == [ADDRESS, wanted.pop("output")]
    assert {each.arg: ast.literal_eval(each.value) for each in call.keywords} == wanted
    plain = python_call(
        "p.zarr",
        {"output": 'out/a "b".zarr', "groups": [R20M, R60M], **dict.fromkeys(("image", "memory", "cpu", "time_limit"))}
        | {"validate_groups": False, "if_exists": "error", "backend": "local"},
        gz.Settings(),
    )
    assert plain.endswith(f"gz.convert('p.zarr', 'out/a \"b\".zarr', groups={[R20M, R60M]!r})")


def test_what_signs_an_address_is_in_no_line() -> None:
    signed = f"{ADDRESS}?sig=secret"
    text = python_call(signed, arguments_of(), gz.Settings()) + argo_command(signed, arguments_of(), gz.Settings())
    assert "secret" not in text
    ast.parse(text.partition("argo submit")[0])


@pytest.mark.parametrize("output", ["out/r20m.zarr", "pvc://another/out/r20m.zarr", "/data/out/r20m.zarr"])
def test_the_shell_line_has_what_a_submitted_job_has(output: str) -> None:
    settings = gz.Settings()
    arguments = arguments_of(output=output)
    words = shlex.split(argo_command(ADDRESS, arguments, settings))
    said = dict(word.split("=", 1) for word in words if "=" in word)
    assert words[:2] == ["argo", "submit"]
    assert f"workflowtemplate/{settings.template}" in words
    address = output if output.startswith("pvc://") else "pvc://geozarr-pvc/out/r20m.zarr"
    request = Request(
        source=ADDRESS,
        shown=ADDRESS,
        product="product",
        output=address,
        groups=(R20M, R60M),
        options={"validate_groups": True, "if_exists": "overwrite"},
        identity="0" * 64,
    )
    of_pods = {name: str(arguments[name]) for name in ("image", "memory", "cpu", "time_limit")}
    made = manifest(request, "p-0", 1, settings.with_arguments(**of_pods), 0)
    assert of_pods.keys() <= said.keys()
    by_setting = argo_command(ADDRESS, {**arguments, **dict.fromkeys(of_pods)}, settings.with_arguments(**of_pods))
    assert shlex.split(by_setting) == words
    wanted = {entry["name"]: entry["value"] for entry in made["spec"]["arguments"]["parameters"]}
    assert said == {name: wanted[name] for name in said}
    assert wanted.keys() - said.keys() == {*("identity", "derived_from", "credentials", "dask_cluster", "verbose")}
    assert "-p archive=true" in argo_command(ADDRESS, arguments, replace(settings, archive=True))


def test_the_shell_line_names_the_cluster_that_the_settings_mean() -> None:
    settings = gz.Settings().with_arguments(namespace="jobs", kube_context="my cluster")
    line = argo_command(ADDRESS, arguments_of(), settings)
    assert line.startswith("argo submit --from workflowtemplate/geozarr-convert -n jobs --context 'my cluster' -p ")


@pytest.mark.parametrize(
    ("label", "value", "said"),
    [
        ("Memory", "much", "memory is no amount of memory"),
        ("Cores", "many", "cpu is no number of cores"),
        ("Time limit", "an hour", "time_limit is no time in seconds above 0"),
        ("Time limit", "0", "time_limit is no time in seconds above 0"),
        ("Time limit", "inf", "time_limit is no time in seconds above 0"),
        ("Claim", "No Name", "No Name"),
        ("Output", "https://host/out.zarr", "https://host/out.zarr"),
    ],
)
def test_what_a_cluster_cannot_take_is_said_as_one_types(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str, value: str, said: str
) -> None:
    with ApiServer().running() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        form = form_of(str(sample), "out.zarr", groups=[R60M], backend="argo")
        assert form.ready, form.problems
        field(form, label).value = value
        assert form.wait(SECONDS)
        assert any(said in problem for problem in form.problems), form.problems
        assert not form.ready
        assert server.asked == [], "as one types nothing is asked of a cluster"


def test_no_groups_are_the_whole_product_in_a_shell_too() -> None:
    command = shlex.split(argo_command(ADDRESS, arguments_of(groups=[]), gz.Settings()))
    assert "groups=[]" in command


def test_it_says_what_there_is_where_no_front_end_answers(sample: Path) -> None:
    text = form_of(str(sample), "out.zarr", groups=[R60M])._repr_mimebundle_()["text/plain"]
    assert f"gz.convert('{sample}', 'out.zarr', groups=['{R60M}'])" in text
    assert "Ready: writes" in text


def test_all_of_it_is_gone_when_it_is_closed(sample: Path) -> None:
    form = form_of(str(sample), "out.zarr", groups=[R60M], backend="argo")
    parts = list(inside(form))
    form.backend = "local"
    parts += inside(form)
    assert form.wait(SECONDS)
    form.close()
    assert [part for part in parts if part.comm is not None] == []
