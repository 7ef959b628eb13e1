"""What programs rely on is there: names, parameters, members, codes of errors and exit codes. More may be added."""

from __future__ import annotations

import pytest

from tests.frozen.present import error_classes, exit_codes, members_of, parameters_of, public_names, recorded

PUBLIC = recorded("public")
ERRORS = recorded("errors")
BY_NAME = "KEYWORD_ONLY"
# What the one class of requests no longer has. Its constructor takes the options as `options`; each of them can still
# be read as an attribute. What it checked is checked by `geozarr_nb.check` and by the backends.
GONE_PARAMETERS = {
    "Request": ["validate_groups", "if_exists", "dask_cluster", "verbose", "scratch", "archive", "packed"],
}
GONE_MEMBERS = {"Request": ["check", "check_groups", "check_output"]}


def test_no_public_name_is_gone() -> None:
    assert set(PUBLIC["names"]) <= set(public_names())


@pytest.mark.parametrize("name", PUBLIC["parameters"])
def test_a_call_takes_the_recorded_parameters(name: str) -> None:
    before, now = PUBLIC["parameters"][name], parameters_of(name)
    positional = [each for each in before if each[1] != BY_NAME]
    assert now[: len(positional)] == positional, "they keep their places"
    assert [each[0] for each in before if each not in now] == GONE_PARAMETERS.get(name, [])
    added = [each for each in now if each not in before]
    assert [each for each in added if each[2] == "" and not each[1].startswith("VAR_")] == [], (
        "a call of 0.1.0 lacks it"
    )


@pytest.mark.parametrize("name", PUBLIC["members"])
def test_a_class_has_the_recorded_members(name: str) -> None:
    assert sorted(set(PUBLIC["members"][name]) - set(members_of(name))) == GONE_MEMBERS.get(name, [])


@pytest.mark.parametrize("name", ERRORS["classes"])
def test_an_error_has_its_code_and_is_caught_as_before(name: str) -> None:
    before, now = ERRORS["classes"][name], error_classes()[name]
    assert {key: now[key] for key in ("code", "exit_code", "retryable")} == {
        key: before[key] for key in ("code", "exit_code", "retryable")
    }
    assert set(before["is_a"]) <= set(now["is_a"])


def test_every_code_is_of_one_class() -> None:
    codes = [each["code"] for each in error_classes().values()]
    assert sorted(codes) == sorted(set(codes))


def test_exit_codes_have_their_numbers() -> None:
    assert {name: exit_codes().get(name) for name in ERRORS["exit_codes"]} == ERRORS["exit_codes"]
