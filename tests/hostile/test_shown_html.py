"""What a notebook shows of things that others wrote: text, and HTML in which nothing of theirs is markup."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pystac
import pytest
import zarr

import geozarr_nb as gz
from geozarr_nb.backends.base import Failure, JobState, Progress
from geozarr_nb.doctor.findings import Diagnosis, Finding
from geozarr_nb.jobs.display import Board
from geozarr_nb.jobs.jobset import JobSet, Refused
from geozarr_nb.outputs.stac.items import collection_of, read_item
from geozarr_nb.outputs.stac.objects import Item, ItemCollection
from geozarr_nb.widgets.blocks import panel
from geozarr_nb.widgets.jobs.row import row
from geozarr_runner.events import parse
from geozarr_runner.planning.groups import GroupReport
from geozarr_runner.spec.request import Request
from geozarr_runner.text import html

EVIL = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script><a href='javascript:alert(3)'>\x1b]0;x\x07\u202e"
OURS = {"div", "strong", "table", "thead", "tbody", "tr", "th", "td", "code", "a", "br", "small", "progress"}
OURS |= {"dl", "dt", "dd", "pre", "h3"}


class Markup(HTMLParser):
    """Everything in a text that a browser takes for markup."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.data = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.data += data


def harmless(text: str) -> Markup:
    """Return what is in a piece of HTML, which has nothing but our own elements and attributes in it."""
    found = Markup(text)
    assert set(found.tags) <= OURS, found.tags
    for name, value in found.attributes:
        assert not name.startswith("on"), (name, value)
        assert name != "href" or str(value).startswith(("https://", "http://")), value
        assert name != "style" or "alert" not in str(value), value
    return found


def an_item(**more: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": EVIL,
        "geometry": None,
        "bbox": [EVIL, 1, 2, 3],
        "properties": {"datetime": "2025-10-08T00:00:00Z", EVIL: EVIL},
        "links": [
            {"rel": "derived_from", "href": f"javascript:alert('{EVIL}')", "title": EVIL},
            {"rel": "derived_from", "href": f"https://h.example/{EVIL}"},
            {"rel": EVIL, "href": EVIL, "type": EVIL},
        ],
        "assets": {EVIL: {"href": f"javascript:alert(1)//{EVIL}", "title": EVIL, "type": EVIL, "roles": [EVIL]}},
        **more,
    }


def test_pystacs_own_would_run() -> None:
    """Else none of this would be needed."""
    pytest.importorskip("jinja2")
    item = pystac.Item.from_dict(an_item(bbox=None))
    assert "img" in Markup(item._repr_html_()).tags


@pytest.fixture
def output(tmp_path: Path) -> str:
    """The address of an output whose item somebody else wrote."""
    (tmp_path / "out.zarr.stac.json").write_text(json.dumps(an_item(bbox=[0, 1, 2, 3])))
    return str(tmp_path / "out.zarr")


def test_an_item_shows_itself(output: str) -> None:
    item = read_item(output)
    assert isinstance(item, pystac.Item)
    found = harmless(item._repr_html_())
    assert "<img" in found.data
    assert repr(item).isprintable()
    for asset in item.assets.values():
        harmless(asset._repr_html_())
        assert repr(asset).isprintable()
    assert len(item.links) >= 4
    for link in item.links:
        harmless(link._repr_html_())
        assert repr(link).isprintable()
    again = item.clone()
    harmless(again._repr_html_())
    harmless(next(iter(again.assets.values()))._repr_html_())


def test_an_item_whose_place_is_given_another_source(output: str) -> None:
    item = read_item(output, "https://h.example/source.json")
    [link] = item.get_links("derived_from")
    assert link.href == "https://h.example/source.json"
    assert '<a href="https://h.example/source.json"' in item._repr_html_()


def test_lists_and_collections_of_items_show_themselves(output: str) -> None:
    items: list[pystac.Item] = [read_item(output) for _ in range(70)]
    listed = ItemCollection(items)
    collection = collection_of(items, EVIL, EVIL)
    for thing in (listed, collection):
        assert "and 10 more" in harmless(thing._repr_html_()).data
        assert repr(thing).isprintable()
    assert isinstance(listed[0], Item)


@pytest.mark.parametrize("change", [{"bbox": EVIL}, {"assets": {"a": {"href": "a", "roles": [7]}}}, {"id": 7}])
def test_odd_items_are_shown(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "o.zarr.stac.json").write_text(json.dumps(an_item(**change)))
    harmless(read_item(str(tmp_path / "o.zarr"))._repr_html_())


@pytest.mark.parametrize("change", [{"links": 7}, {"properties": []}, {"assets": [1]}, {"assets": {"a": {"href": 7}}}])
def test_odd_items_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "o.zarr.stac.json").write_text(json.dumps(an_item(**change)))
    with pytest.raises(gz.InvalidRequest, match="no STAC that can be read"):
        read_item(str(tmp_path / "o.zarr"))


@pytest.mark.parametrize(
    ("address", "clickable"),
    [
        ("https://h.example/a?b=c&d", True),
        ("http://h.example", True),
        ("javascript:alert(1)", False),
        ("JavaScript:alert(1)", False),
        (" javascript:alert(1)", False),
        ("java\nscript:alert(1)", False),
        ("data:text/html,<script>alert(1)</script>", False),
        ("https:alert(1)", False),
        ("https://a\njavascript:alert(1)", False),
        ("file:///etc/passwd", False),
        ("s3://bucket/a", False),
        ('https://h.example/"onmouseover="alert(1)', True),
        ("/a/b", False),
        ("", False),
    ],
)
def test_only_pages_of_the_web_are_clicked(address: str, clickable: bool) -> None:
    found = harmless(html.link(address))
    assert ("a" in found.tags) == clickable
    assert not clickable or ("href", address) in found.attributes


def test_every_piece_of_html_escapes_what_it_is_given() -> None:
    pieces = [
        html.table((EVIL,), [(EVIL,)]),
        html.facts({EVIL: EVIL}),
        html.block(EVIL),
        html.link(EVIL),
        panel.facts({EVIL: EVIL}),
        panel.lines([EVIL], EVIL),
        panel.code(EVIL, EVIL),
        panel.heading(EVIL).value,
    ]
    for piece in pieces:
        harmless(piece)


def a_state(**more: Any) -> JobState:
    request = Request(source=EVIL, shown=EVIL, product=EVIL, output=EVIL, groups=(EVIL,))
    failure = Failure(code=EVIL, message=EVIL, given=EVIL, remedy=EVIL)
    values = {"name": EVIL, "backend": EVIL, "request": request, "status": "Failed", "reason": EVIL}
    values |= {
        "submitted": datetime.now(UTC),
        "started": datetime.now(UTC),
        "stage": EVIL,
        "failure": failure,
        "log": EVIL,
    }
    return JobState(**{**values, **more})


def test_jobs_and_their_progress_are_shown_as_text() -> None:
    board = Board(a_state(status="Running", progress=Progress(1, 2, EVIL)))
    events = [
        {"type": "stage", "stage": EVIL, "state": "started"},
        {"type": "progress", "done": 1, "total": 2, "unit": EVIL},
        {"type": "warning", "code": EVIL, "message": EVIL, "remedy": EVIL},
    ]
    parsed = [parse(json.dumps({"v": 1, "time": "2025-10-08T00:00:00+00:00", **event})) for event in events]
    board.update(board.state, [event for event in parsed if event is not None])
    harmless(board.html)
    for state in (a_state(), a_state(status="Running", progress=Progress(1, 2, EVIL))):
        harmless(row(state, EVIL))
        backend = SimpleNamespace(name="local", get=lambda _, state=state: state, list=lambda state=state: [state])
        harmless(gz.Job(backend, EVIL)._repr_html_())  # type: ignore[arg-type]
        refused = Refused(EVIL, EVIL, EVIL, EVIL)
        jobs = JobSet(backend, [gz.Job(backend, EVIL), refused], name=EVIL)  # type: ignore[arg-type]
        harmless(jobs._repr_html_())


def test_products_reports_and_findings_are_shown_as_text(tmp_path: Path) -> None:
    store = tmp_path / "p.zarr"
    group = zarr.open_group(store, mode="w", zarr_format=2)
    name = EVIL.replace("/", "").replace("\x1b", "").replace("\x07", "")
    group.create_array(f"{name}/{name}", shape=(2, 2), dtype="i2")
    group.attrs["stac_discovery"] = {"properties": {"datetime": EVIL, "product:type": EVIL}}
    zarr.consolidate_metadata(store)
    harmless(gz.inspect({"id": EVIL, "assets": {"a": {"href": str(store)}}})._repr_html_())
    report = GroupReport(EVIL, (EVIL,), (EVIL,), (EVIL,), {EVIL: EVIL}, (EVIL,), {EVIL: (EVIL,)}, (EVIL,))
    harmless(report._repr_html_())
    harmless(Diagnosis((Finding(EVIL, "problem", EVIL, EVIL, EVIL),))._repr_html_())


def test_widgets_take_names_for_text() -> None:
    from geozarr_nb.widgets.request import form_fields

    for widget in (
        form_fields.tick(EVIL, EVIL),
        form_fields.text_field(EVIL, EVIL, EVIL),
        form_fields.menu(EVIL, [EVIL], EVIL),
    ):
        assert widget.description_allow_html is False
        widget.close()
