"""Command lines of `geozarr-nb` end in the calls that they ended in, with the same arguments."""

from __future__ import annotations

import pytest

from tests.frozen.present import Document, recorded, sdk_call

LINES = recorded("commands")


@pytest.mark.parametrize("case", LINES, ids=[" ".join(case["argv"]) for case in LINES])
def test_a_line_ends_in_the_recorded_call(case: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sdk_call(case["argv"], monkeypatch) == (case["call"], case["values"])
