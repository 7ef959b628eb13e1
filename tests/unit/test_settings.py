"""Arguments over environment over params.json, and errors that name the place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geozarr_nb.errors import InvalidRequest
from geozarr_nb.settings import SETTINGS, Settings, params_path, read_params
from geozarr_nb.settings.params import PARAMETERS, TEMPLATE_PARAMETERS

ROOT = Path(__file__).parents[2]


def write(path: Path, *parameters: object) -> Path:
    path.write_text(json.dumps({"arguments": {"parameters": list(parameters)}}, indent=2))
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_repositorys_params_json_is_what_holds_without_any_setting() -> None:
    assert params_path({}) == ROOT / "params.json"
    settings = Settings.load({})
    parameters = read_params(ROOT / "params.json")
    assert settings.groups == parameters["groups"] == "measurements/reflectance/r20m"
    assert settings.validate_groups is False
    assert settings.backend == "local"
    assert settings.max_jobs == 1
    assert settings.origins["groups"] == str(ROOT / "params.json")
    assert settings.origins["max_jobs"] == "default"


def test_the_working_directorys_file_wins_over_the_packages(tmp_path: Path) -> None:
    path = write(tmp_path / "params.json", {"name": "groups", "value": "a/b"})
    settings = Settings.load({})
    assert (settings.groups, settings.origins["groups"]) == ("a/b", str(path))


def test_whether_outputs_are_packed_is_a_setting(tmp_path: Path) -> None:
    assert Settings.load({}).archive is False
    write(tmp_path / "params.json", {"name": "archive", "value": "true"})
    assert Settings.load({}).archive is True
    assert Settings.load({"GEOZARR_ARCHIVE": "false"}).archive is False


def test_a_named_file_wins_over_the_working_directorys(tmp_path: Path) -> None:
    write(tmp_path / "params.json", {"name": "groups", "value": "a/b"})
    named = write(tmp_path / "other.json", {"name": "groups", "value": "c/d"})
    assert Settings.load({"GEOZARR_PARAMS": str(named)}).groups == "c/d"


def test_the_environment_wins_over_params_json(tmp_path: Path) -> None:
    write(tmp_path / "params.json", {"name": "groups", "value": "a/b"}, {"name": "validate_groups", "value": "false"})
    settings = Settings.load({
        "GEOZARR_STAC_URL": "product.zarr",
        "GEOZARR_OUTPUT_ZARR": "out.zarr",
        "GEOZARR_GROUPS": "x/y",
        "GEOZARR_VALIDATE_GROUPS": "TRUE",
        "GEOZARR_BACKEND": "local",
        "GEOZARR_STATE_DIR": "state",
        "GEOZARR_MAX_JOBS": "3",
        "GEOZARR_SCRATCH": "fast",
        "GEOZARR_POLL_INTERVAL": "1.5",
    })  # fmt: skip
    assert settings == Settings("product.zarr", "out.zarr", "x/y", True, "local", tmp_path / "state", 3, "fast", 1.5)
    assert settings.origins["groups"] == "GEOZARR_GROUPS"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GEOZARR_VALIDATE_GROUPS", "maybe"),
        ("GEOZARR_ARCHIVE", "perhaps"),
        ("GEOZARR_MAX_JOBS", "0"),
        ("GEOZARR_MAX_JOBS", "two"),
        ("GEOZARR_POLL_INTERVAL", "-1"),
        ("GEOZARR_POLL_INTERVAL", "nan"),
        ("GEOZARR_POLL_INTERVAL", "soon"),
        ("GEOZARR_STATE_DIR", " "),
        ("GEOZARR_PARAMS", "missing.json"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(variable: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Settings.load({variable: value})
    assert variable in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('{\n  "arguments": {\n    "parameters": [,]\n  }\n}', 3, "no JSON"),
        ("", 1, "no JSON"),
        ("[]", 1, "no arguments.parameters"),
        ('{\n"arguments": {\n"parameters": {}}}', 3, "no list"),
        ('{"arguments": {"parameters": [\n{"name": "groups"},\n{"name": "gruops"}]}}', 3, "groups"),
        ('{"arguments": {"parameters": [\n{"name": "groups"},\n{"name": "groups"}]}}', 3, "twice"),
        ('{"arguments": {"parameters": [\n\n{"name": "groups", "value": ["a", "b"]}]}}', 3, '"a,b"'),
        ('{"arguments": {"parameters": [\n{"name": "validate_groups", "value": false}]}}', 2, '"false"'),
        ('{"arguments": {"parameters": [\n{"name": "validate_groups", "value": "perhaps"}]}}', 2, "perhaps"),
        ('{"arguments": {"parameters": [\n{"name": "archive", "value": "perhaps"}]}}', 2, "perhaps"),
        ('{"arguments": {\n"parameters": [\n"groups"]}}', 3, "without a name"),
        ('{"arguments": {\n"parameters": [{"value": "a"}]}}', 2, "without a name"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_an_error_that_names_file_and_line(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    path = tmp_path / "params.json"
    path.write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        Settings.load({})
    assert caught.value.given == f"{path}, line {line}"
    assert words in str(caught.value)
    assert caught.value.remedy


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        Settings.load({})


def test_a_placeholder_in_a_value_that_is_needed_is_an_error() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Settings.load({}).required("stac_url")
    assert "placeholder" in caught.value.message
    assert caught.value.given == "<S2 Zarr URL>"
    assert "GEOZARR_STAC_URL" in caught.value.remedy


def test_an_empty_value_that_is_needed_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="no source was given"):
        Settings.load({"GEOZARR_STAC_URL": ""}).required("stac_url")


def test_the_templates_own_parameters_may_stand_in_the_same_file(tmp_path: Path) -> None:
    path = write(tmp_path / "params.json", {"name": "pvc_name", "value": "data"}, {"name": "image", "value": "a:1"})
    assert set(read_params(path)) == {"pvc_name", "image"}


def test_every_field_is_declared_and_said_once() -> None:
    assert list(SETTINGS) == [name for name in Settings.__dataclass_fields__ if name != "origins"]
    for name, one in SETTINGS.items():
        assert (one.name, one.variable) == (name, f"GEOZARR_{name.upper()}")
        assert one.help[0].islower() or one.help.startswith("WorkflowTemplate") or one.help.startswith("Secret")
        assert one.default
        said = " ".join((Settings.__doc__ or "").split())
        assert f" {name} {one.help[0].upper()}{one.help[1:]}. Variable: `{one.variable}`" in said


def test_the_readme_has_every_setting() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [one.variable for one in SETTINGS.values() if f"`{one.variable}`" not in readme] == []


def test_what_params_json_may_set_is_a_setting() -> None:
    assert set(PARAMETERS + TEMPLATE_PARAMETERS) <= set(SETTINGS)
    assert "converter" not in PARAMETERS + TEMPLATE_PARAMETERS, "no folder chooses which program runs"


def test_what_is_no_default_is_listed_with_its_origin(tmp_path: Path) -> None:
    path = write(tmp_path / "params.json", {"name": "groups", "value": "a/b"})
    environ = {"GEOZARR_STAC_URL": "https://me:secret@host/p.zarr?sig=x", "GEOZARR_MOUNTS": "data=/data"}
    listed = Settings.load(environ).listed()
    assert f"GEOZARR_GROUPS=a/b ({path}); " in listed
    assert "GEOZARR_MOUNTS=data=/data; defaults for all others" in listed
    assert "GEOZARR_STAC_URL=https://host/p.zarr" in listed
    assert "secret" not in listed


def test_a_converter_is_named_from_the_working_directory(tmp_path: Path) -> None:
    assert Settings.load({"GEOZARR_CONVERTER": "bin/eopf-geozarr"}).converter == str(tmp_path / "bin/eopf-geozarr")
    assert Settings.load({"GEOZARR_CONVERTER": " "}).converter == ""
