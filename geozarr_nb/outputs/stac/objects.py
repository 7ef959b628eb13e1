"""pystac's objects, shown by this package: their own HTML shows what others wrote as it stands, scripts included."""

from __future__ import annotations

from typing import Any

import pystac

from geozarr_runner.text import html
from geozarr_runner.text.printable import printable
from geozarr_runner.trust.addresses import redact

ROWS_SHOWN = 60


class _Shown:
    """Something that shows itself as escaped HTML; its text is in one line."""

    def __repr__(self) -> str:
        return printable(super().__repr__())


class Asset(_Shown, pystac.Asset):
    """An asset of an item."""

    def _repr_html_(self) -> str:
        return html.block(
            str(self.title or "asset"),
            html.facts({
                "address": html.link(redact(self.href)),
                "type": str(self.media_type or ""),
                "roles": ", ".join(map(str, self.roles or ())),
                "description": str(self.description or ""),
            }),
        )  # fmt: skip


class Link(_Shown, pystac.Link):
    """A link of an item."""

    def _repr_html_(self) -> str:
        return html.block(str(self.rel), html.facts({"address": _target(self), "title": str(self.title or "")}))


class Item(_Shown, pystac.Item):
    """An item, with assets and links that show themselves alike."""

    @classmethod
    def of(cls, document: dict[str, Any], address: str) -> Item:
        """Return the item of a document that was read there."""
        links = document.get("links")
        kept = [link for link in links if link.get("rel") != "self"] if isinstance(links, list) else links
        item = cls.from_dict({**document, "links": kept}, preserve_dict=False)
        item.set_self_href(address)
        return item

    def dressed(self) -> Item:
        """Give it assets and links that show themselves as it does; returns itself."""
        for key, asset in self.assets.items():
            self.assets[key] = own = Asset.from_dict(asset.to_dict())
            own.set_owner(self)
        links = [link for link in self.links if isinstance(link.target, str)]
        self.links = [
            Link.from_dict(link.to_dict(transform_href=False)).set_owner(self) if link in links else link
            for link in self.links
        ]
        return self

    def _repr_html_(self) -> str:
        made_from = [_target(link) for link in self.get_links(pystac.RelType.DERIVED_FROM)]
        assets = [
            (key, str(asset.media_type or ""), html.link(redact(asset.href)))
            for key, asset in list(self.assets.items())[:ROWS_SHOWN]
        ]
        return html.block(
            f"STAC item: {self.id}",
            html.facts({
                "address": html.link(redact(self.get_self_href() or "")),
                "taken": str(self.datetime or self.properties.get("start_datetime") or ""),
                "box": ", ".join(map(str, self.bbox or ())),
                "made from": html.Html(", ".join(made_from)),
            }),
            html.table(("asset", "type", "address"), assets),
            _more(len(self.assets)),
        )  # fmt: skip


class ItemCollection(_Shown, pystac.ItemCollection):
    """A list of items."""

    def _repr_html_(self) -> str:
        return html.block(f"{len(self)} STAC items", _rows(self.items), _more(len(self)))


class Collection(_Shown, pystac.Collection):
    """A collection of items."""

    def _repr_html_(self) -> str:
        items = [link.target for link in self.get_item_links() if isinstance(link.target, pystac.Item)]
        return html.block(
            f"STAC collection: {self.id}",
            html.facts({"description": str(self.description), "items": str(len(items))}),
            _rows(items),
            _more(len(items)),
        )


def _rows(items: list[pystac.Item]) -> str:
    rows = [
        (item.id, str(item.datetime or ""), html.link(redact(item.get_self_href() or "")))
        for item in items[:ROWS_SHOWN]
    ]
    return html.table(("item", "taken", "address"), rows)


def _more(count: int) -> str:
    return f"and {count - ROWS_SHOWN} more" if count > ROWS_SHOWN else ""


def _target(link: pystac.Link) -> html.Html:
    return html.link(redact(link.get_target_str() or ""))
