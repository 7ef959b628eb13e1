"""Jobs that 0.1.0 could name have the same names and identities."""

from __future__ import annotations

import pytest

from tests.frozen.present import Document, new_request, read_request, recorded, stored

CASES = recorded("names")
all_cases = pytest.mark.parametrize("case", CASES, ids=[case["about"] for case in CASES])


@all_cases
def test_a_request_that_is_made_anew_has_the_recorded_name(case: Document) -> None:
    request = new_request(case["given"])
    assert (request.name, request.identity) == (case["name"], case["identity"])


@all_cases
def test_a_request_that_was_stored_has_the_recorded_name(case: Document) -> None:
    request = read_request(case["document"])
    assert (request.name, request.identity) == (case["name"], case["identity"])
    assert {name: stored(request)[name] for name in case["document"]} == case["document"]


@all_cases
def test_what_a_stored_request_holds_are_its_attributes(case: Document) -> None:
    request = read_request(case["document"])
    held = {**case["document"], "source": case["document"]["source"] or ""}
    del held["v"]
    assert {name: getattr(request, name) for name in held} == {**held, "groups": tuple(held["groups"])}
