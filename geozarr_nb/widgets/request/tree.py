"""A product's groups as a tree, without any widget: what stands below what, and what is to be seen."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geozarr_runner.product.model import Product

ROOT = "/"


@dataclass(frozen=True, slots=True)
class Node:
    """One group.

    Attributes
    ----------
    depth
        Steps below the root's children.
    has_children
        There are groups below it.
    holds_arrays
        It can be chosen; others only have groups below them.
    """

    path: str
    depth: int
    has_children: bool
    holds_arrays: bool

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2] or ROOT


class Tree:
    """The groups of a product, in the order in which the product has them."""

    def __init__(self, product: Product) -> None:
        self._words: dict[str, str] = {}
        children: dict[str, list[str]] = {}
        for path, group in product.groups.items():
            names = " ".join(array.name for array in group.variables)
            self._words[path] = f"{path} {names}".lower()
            for step in _steps(path):
                above = children.setdefault(_above(step), [])
                if step not in children:
                    above.append(step)
                    children[step] = []
        self._children = children
        tops = ([ROOT] if ROOT in product.groups else []) + children.get(ROOT, [])
        self._tops = tops

    def opened_for(self, rows: int) -> frozenset[str]:
        """Return which groups to open so that as much is seen as there are rows for, level by level."""
        opened: set[str] = set()
        level, count = self._tops, len(self._tops)
        while level:
            below = [child for path in level if path != ROOT for child in self._children[path]]
            count += len(below)
            if count > rows:
                break
            opened.update(path for path in level if path != ROOT and self._children[path])
            level = below
        return frozenset(opened)

    def seen(self, opened: Collection[str], sought: str = "") -> list[Node]:
        """Return what is to be seen, in order.

        Parameters
        ----------
        opened
            Paths of the groups whose children are seen.
        sought
            Words that a group's path or the names of its variables have to hold, all of them; then its parents are
            seen too, whether they are open or not.
        """
        words = sought.lower().split()
        wanted: set[str] | None = None
        if words:
            found = [path for path, text in self._words.items() if all(word in text for word in words)]
            wanted = {step for path in found for step in _steps(path)} | ({ROOT} & set(found))
        nodes: list[Node] = []
        waiting = [(path, 0) for path in reversed(self._tops)]
        while waiting:
            path, depth = waiting.pop()
            if wanted is not None and path not in wanted:
                continue
            below = [] if path == ROOT else self._children[path]
            nodes.append(Node(path, depth, bool(below), path in self._words))
            if wanted is not None or path in opened:
                waiting.extend((child, depth + 1) for child in reversed(below))
        return nodes


def _steps(path: str) -> Iterable[str]:
    """Return the groups on the way to a path, the root left out: /a, /a/b, /a/b/c."""
    parts = path.strip("/").split("/") if path != ROOT else []
    return [f"/{'/'.join(parts[:end])}" for end in range(1, len(parts) + 1)]


def _above(path: str) -> str:
    return path.rpartition("/")[0] or ROOT
