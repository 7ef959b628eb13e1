"""Which groups are wanted, in every form a person types them, and what is said of those that are not there."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geozarr_runner.errors import GroupsMissing, InvalidRequest
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.planning.groups import report
from geozarr_runner.product.model import Product
from geozarr_runner.spec.parameters import parameters
from geozarr_runner.spec.request import Words, as_text, normalise
from geozarr_runner.text.shell import in_shell, literal
from runner.tests.support import R20M, R60M, array_v2, consolidated_v2, grid_v2, write_store


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (None, ()),
        ("", ()),
        ("0", ()),
        (" , ", ()),
        ([], ()),
        (["0", ""], ()),
        ("a", ("/a",)),
        ("/a/", ("/a",)),
        ("//a//b", ("/a/b",)),
        ("a,b", ("/a", "/b")),
        ("a b\tc\nd", ("/a", "/b", "/c", "/d")),
        ("a, /a ,a/", ("/a",)),
        (["b", "a,b"], ("/b", "/a,b")),
        (["surface reflectance/r10m"], ("/surface reflectance/r10m",)),
        (["höhe, m", "高さ"], ("/höhe, m", "/高さ")),
        ('["höhe, m", "a b"]', ("/höhe, m", "/a b")),
        (Words(["a,b", "c d", '["e f"]']), ("/a", "/b", "/c", "/d", "/e f")),
        (("a", "b"), ("/a", "/b")),
        (iter(["a"]), ("/a",)),
        ({"a": 1}, ("/a",)),
        ("/", ("/",)),
        ("A", ("/A",)),
        ("0/a", ("/0/a",)),
    ],
)
def test_groups_are_absolute_and_come_once(typed: str | Iterable[str] | None, meant: tuple[str, ...]) -> None:
    assert normalise(typed, {}) == meant


# What a store can have as the name of a group, and then some.
NAMES = st.text(
    st.one_of(st.sampled_from(" ,\"[]{}'\\$0;=#\t\u00a0\u2028é高"), st.characters(exclude_categories=["Cs", "Cc"])),
    min_size=1,
    max_size=12,
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))

PLAIN = PATHS.filter(
    lambda path: path.isprintable() and not {"\\", '"'} & set(path)
)  # what Python's shlex reads as bash does


@settings(deadline=None)
@given(st.lists(PATHS, unique=True, max_size=4))
def test_names_stay_what_they_are_on_every_way(names: list[str]) -> None:
    wanted = normalise(names)
    assert normalise(wanted) == wanted
    assert normalise(as_text(wanted), {}) == wanted
    assert normalise(parameters(wanted, {})["groups"]) == wanted
    assert normalise(Words([as_text(wanted)]), {}) == wanted
    assert normalise(None, {"ARGO_GROUPS": as_text(wanted)}) == wanted


@settings(deadline=None)
@given(st.lists(PLAIN, unique=True, min_size=1, max_size=4))
def test_a_remedy_names_in_a_shell_what_it_names_in_python(names: list[str]) -> None:
    wanted = normalise(names)
    option, *words = shlex.split(in_shell(f"groups=[{', '.join(map(literal, wanted))}]"))
    assert option == "--groups"
    assert normalise(Words(words)) == wanted


@pytest.mark.parametrize("typed", [None, "", "0", [], ["0"]])
def test_nothing_given_falls_back_to_the_environment(typed: str | list[str] | None) -> None:
    assert normalise(typed, {"ARGO_GROUPS": "a, b"}) == ("/a", "/b")
    assert normalise(typed, {"ARGO_GROUPS": "0"}) == ()
    assert normalise("c", {"ARGO_GROUPS": "a, b"}) == ("/c",)


@pytest.mark.parametrize("typed", [[["a"]], [("a", "b")], [None], [1], ["a", b"b"], [Path("a")]])
def test_a_group_is_text(typed: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="by its path") as caught:
        normalise(typed, {})
    assert caught.value.given
    assert caught.value.remedy


def test_a_number_is_no_list_of_groups() -> None:
    with pytest.raises(InvalidRequest, match="by their paths") as caught:
        normalise(5, {})  # type: ignore[arg-type]
    assert caught.value.given == "5"


@pytest.fixture(scope="module")
def product(s2: Path) -> Product:
    return open_product(s2)


def test_data_are_suggested_before_masks(product: Product) -> None:
    assert report(product, "r6m").suggestions["/r6m"][0] == "/measurements/reflectance/r60m"


def test_what_may_have_been_meant_is_suggested(product: Product) -> None:
    found = report(product, ["measurements/reflectance/r20", "r60m"])
    assert not found.ok
    assert found.found == ()
    assert found.missing == ("/measurements/reflectance/r20", "/r60m")
    assert found.suggestions["/measurements/reflectance/r20"][0] == R20M
    assert found.suggestions["/r60m"][0] == R60M
    for text in (repr(found), found._repr_html_()):
        assert R20M in text
        assert R60M in text
    assert "not as asked" in repr(found)


@pytest.mark.parametrize("typo", ["measurement/reflectance/r20m", "Measurements/Reflectance/R20M", "reflectance/r20m"])
def test_a_typing_error_is_recognised(typo: str, product: Product) -> None:
    assert report(product, typo).suggestions[f"/{typo}"][0] == R20M


def test_what_resembles_nothing_is_answered_with_all_there_is(product: Product) -> None:
    found = report(product, "xyzzy")
    assert found.suggestions == {"/xyzzy": ()}
    with pytest.raises(GroupsMissing) as caught:
        found.raise_for_missing(all_needed=False)
    assert "/xyzzy" in caught.value.message
    assert R20M in caught.value.remedy


def test_a_parent_is_no_group_to_convert(product: Product) -> None:
    found = report(product, "/measurements/reflectance")
    assert "only groups" in found.unfit["/measurements/reflectance"]
    assert set(found.suggestions["/measurements/reflectance"]) <= set(found.available)
    assert all(path.startswith("/measurements/reflectance/") for path in found.suggestions["/measurements/reflectance"])


def test_a_variable_is_no_group_and_its_group_is_said(product: Product) -> None:
    found = report(product, f"{R20M}/b05")
    assert found.unfit == {f"{R20M}/b05": f"it is a variable, and groups go whole; {R20M} holds it"}
    assert found.suggestions == {f"{R20M}/b05": (R20M,)}
    with pytest.raises(GroupsMissing, match="groups go whole") as caught:
        found.raise_for_missing(all_needed=False)
    assert caught.value.remedy == f"choose {R20M} instead of {R20M}/b05"


def test_a_name_with_blanks_is_said_as_it_can_be_given(tmp_path: Path) -> None:
    name = "/surface reflectance, 10 m"
    product = open_product(write_store(tmp_path / "p.zarr", {**consolidated_v2(grid_v2(name[1:]))}))
    assert report(product, [name]).found == (name,)
    with pytest.raises(GroupsMissing) as caught:
        report(product, ["surface reflectance"]).raise_for_missing(all_needed=True)
    [_, said, *_] = shlex.split(caught.value.remedy)
    assert report(product, said).found == (name,)


def test_a_group_that_is_no_raster_is_unfit(product: Product) -> None:
    found = report(product, ["/conditions/geometry", R20M])
    assert list(found.unfit) == ["/conditions/geometry"]
    assert found.found == (R20M,)
    found.raise_for_missing(all_needed=False)
    with pytest.raises(GroupsMissing):
        found.raise_for_missing(all_needed=True)


def test_without_groups_the_whole_product_is_meant(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARGO_GROUPS", raising=False)
    found = report(product, options={"validate_groups": True, "dask_cluster": True})
    assert found.ok
    assert found.wanted == found.found == ()
    assert len(found.warnings) == 2
    assert "whole product" in repr(found)
    assert found.to_dict()["available"] == found.available


def test_short_names_of_a_radar_product_stand_for_each_polarisation(s1: Path) -> None:
    product = open_product(s1)
    found = report(product, "measurements")
    assert found.ok
    assert [path.rpartition("/")[2] for path in found.found] == ["measurements"] * 2
    assert report(product, found.found[1]).found == found.found[1:]
    control_points = report(product, "conditions/gcp")
    assert not control_points.ok
    assert "only the measurements" in control_points.unfit["/conditions/gcp"]


def test_of_olci_only_the_measurements_become_geozarr(s3: Path) -> None:
    product = open_product(s3)
    assert report(product, "measurements").ok
    assert "/quality" in report(product, "quality").unfit


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"data/.zattrs": {"_ARRAY_DIMENSIONS": ["y", "x"]}}, "coordinate reference system"),
        ({"data/.zattrs": {"_ARRAY_DIMENSIONS": ["x", "y"], "proj:epsg": 4326}}, "lies over"),
        (array_v2((8, 8), ("y", "x"), "label", dtype="<U4", fill_value=None), "holds text"),
        (array_v2((2, 2, 8, 8), ("t", "z", "y", "x"), "cube"), "lies over"),
    ],
)
def test_why_a_group_cannot_become_geozarr(change: dict[str, object], why: str, tmp_path: Path) -> None:
    documents = grid_v2("a")
    documents |= {f"a/{key}": document for key, document in change.items()}  # type: ignore[misc]
    product = open_product(write_store(tmp_path / "p.zarr", {**consolidated_v2(documents)}))
    assert why in report(product, "a").unfit["/a"]
    assert report(product, "a").available == ()
