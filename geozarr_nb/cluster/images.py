"""Images: how a cluster calls them, which nodes have them, and which cannot be used."""

from __future__ import annotations

from collections.abc import Iterable

from geozarr_nb.cluster.cause import Cause, make
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


def unusable(image: str, message: str) -> Cause | None:
    """Return why an image's runner could not be started, by what Argo says of the run; None where it was started."""
    if "exec format error" in message:
        return Cause(
            "image-unusable",
            f"image {image} is built for another kind of processor than its node has (exec format error)",
            "see which kinds there are: kubectl get nodes -L kubernetes.io/arch; then build the image for them: docker "
            "build --platform linux/KIND",
        )
    if "executable file not found" in message or ("failed to start command" in message and "no such file" in message):
        return Cause(
            "image-unusable",
            f"image {image} has no geozarr-runner: it is no image of this project",
            f"{make('build load-k3d', IMAGE='eopf-geozarr:dev')}, and give it with image=...",
        )
    return None
