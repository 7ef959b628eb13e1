"""A value of the wrong type is a refused request that names the option, whatever the value is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import geozarr_nb as gz
from geozarr_nb.pods import JOB_ARGUMENTS, PODS
from geozarr_nb.request import request_for
from geozarr_nb.settings import Settings
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.product.model import Product
from geozarr_runner.spec.options import ARGUMENTS, OPTIONS, resolved


class NoPath(os.PathLike[Any]):
    def __fspath__(self) -> Any:
        return 3


ODD = st.one_of(
    st.integers(),
    st.floats(),
    st.binary(max_size=5),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from([object(), NoPath(), 10**5000, -(10**5000), int, np.float64, np.array([True, False]), np.nan, 1j]),
    st.sampled_from([np.bool_(True), np.int64(3), np.str_("skip"), np.array(True), np.add, Path("x"), ..., iter("ab")]),
)


@pytest.fixture(scope="module")
def product(sample: Path) -> Product:
    return open_product(sample)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(name=st.sampled_from(list(ARGUMENTS)), value=ODD)
def test_a_request_has_a_right_value_or_an_error_that_names_the_option(
    product: Product, name: str, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    output = tmp_path_factory.getbasetemp() / "never-written.zarr"
    try:
        request = request_for(product, output, settings=Settings(), **{name: value})  # type: ignore[misc]
    except gz.InvalidRequest as caught:
        error = caught
        request = None
    if request is None:
        assert name in str(error) or name.removesuffix("s") in str(error) or "path" in str(error)
        assert error.remedy
        return
    if name in OPTIONS:
        made = request.options[name]  # type: ignore[literal-required]
        assert type(made) is type(OPTIONS[name].assumed)
        assert OPTIONS[name].checked(made) == made
    assert request.from_json(request.to_json(with_secrets=True)).options == request.options


def test_numbers_out_of_a_table_are_taken() -> None:
    assert resolved({"max_retries": np.int64(5), "packed": np.bool_(True)}) == resolved(
        {"max_retries": 5, "packed": True}
    )


@pytest.mark.parametrize("backend", ["local", "argo"])
@pytest.mark.parametrize("value", [3.5j, b"x", ["a", "b"], np.array([1, 2]), True], ids=repr)
@pytest.mark.parametrize("name", [name for name in JOB_ARGUMENTS if name not in ("groups", "image")])
def test_every_call_refuses_it_by_name(
    name: str, value: Any, backend: str, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is True and JOB_ARGUMENTS[name].is_truth:
        return
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    if backend == "argo" and name not in PODS:
        return
    with pytest.raises(gz.InvalidRequest, match=f"no value of {name}"):
        gz.convert(sample, tmp_path / "out.zarr", backend=backend, **{name: value})


@pytest.mark.parametrize("output", [3, b"x", ["out.zarr"], np.array(["a", "b"])], ids=repr)
def test_an_output_is_a_path(output: Any, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    with pytest.raises(gz.InvalidRequest, match="output"):
        gz.submit(sample, output)
