"""Images: how a cluster calls them, and which nodes have them."""

from __future__ import annotations

from collections.abc import Iterable

from geozarr_nb.cluster.objects import Object, name_of, status_list

# A kubelet reports no more images of its node than these.
IMAGES_REPORTED = 50


def full_name(image: str) -> str:
    """Return an image's name as nodes report it.

    >>> full_name("eopf-geozarr:dev")
    'docker.io/library/eopf-geozarr:dev'
    """
    first, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif not ("." in first or ":" in first or first == "localhost"):
        image = f"docker.io/{image}"
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"


def registry(image: str) -> str:
    """Return where an image would be pulled from; empty for a bare name, which only a node itself can have."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else ""


def nodes_with(image: str, nodes: Iterable[Object]) -> list[str]:
    """Return the names of the nodes that report an image."""
    name = full_name(image)
    return [
        name_of(node)
        for node in nodes
        if any(name == full_name(other) for entry in status_list(node, "images") for other in entry.get("names") or ())
    ]


def reports_all_images(node: Object) -> bool:
    """Return whether an image that a node does not report is not there: of many it reports the largest only."""
    return len(status_list(node, "images")) < IMAGES_REPORTED


def image_and_tag(image: str) -> tuple[str, str, str]:
    """Return an image's name, its tag, and the rest of what was given."""
    name = image.partition("@")[0]
    if ":" in name.rpartition("/")[2]:
        return name.rpartition(":")
    return name, "", ""
