"""What is to be typed, in the spelling of whoever reads it."""

from __future__ import annotations

import pytest

from geozarr_runner.text.shell import in_shell


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ('or if_exists="skip" (keep it)', "or --if-exists skip (keep it)"),
        ("convert it again, with if_exists='overwrite'", "convert it again, with --if-exists overwrite"),
        ("pass overwrite=True to replace it", "pass --overwrite to replace it"),
        ("open it as it is with strict=False", "open it as it is with --no-strict"),
        ("give groups=[] for the whole product", "give --groups 0 for the whole product"),
        ('groups=["/a/r10m", "/a/r20m"]', "--groups /a/r10m /a/r20m"),
        ("fewer groups (groups=...)", "fewer groups (--groups GROUPS)"),
        ("validate_groups=False", "--validate-groups false"),
        ("for example stretch=(2, 98)", "for example --stretch 2 98"),
        ("use size=120", "use --size 120"),
        ("memory=12Gi, say", "--memory 12Gi, say"),
        ("image='runner:1'", "--image runner:1"),
        ("time_limit=60, say", "--time-limit 60, say"),
        ("level=-1", "--level -1"),
        ("give source=..., or set GEOZARR_STAC_URL", "give SOURCE, or set GEOZARR_STAC_URL"),
        ('gz.get_job("a-1").wait()', "geozarr-nb wait a-1"),
        ('print(gz.get_job("a-1").logs()); then', "geozarr-nb logs a-1; then"),
        ("run it again: job.retry()", "run it again: geozarr-nb retry JOB"),
        ("geozarr_nb.list_jobs() shows all", "geozarr-nb jobs shows all"),
        ('make it: gz.convert(product, "out b.zarr")', "make it: geozarr-nb convert PRODUCT 'out b.zarr'"),
        ('geozarr_nb.inspect("https://.../S2A.zarr")', "geozarr-nb inspect https://.../S2A.zarr"),
        ("look at it: geozarr_nb.inspect(...)", "look at it: geozarr-nb inspect SOURCE"),
    ],
)
def test_what_is_typed_is_spelled_for_a_shell(python: str, shell: str) -> None:
    assert in_shell(python) == shell


@pytest.mark.parametrize(
    "text",
    [
        "/data/level=7/size=2/a.zarr",
        "a remedy=1",
        "make space there, or choose another folder",
        "FSSPEC_S3='{\"a\": 1}'",
    ],
)
def test_everything_else_stays(text: str) -> None:
    assert in_shell(text) == text
