"""Execute the tutorials and write them back with their outputs, so that they can be read without running.

    python scripts/execute_notebooks.py                                      # those that need no cluster
    python scripts/execute_notebooks.py notebooks/3_on_a_cluster.ipynb       # one, wherever the settings lead

Whatever is another at every run and of no use to a reader is left out: times of cells, ids of widgets, paths of this
machine. Outputs that say the same as before stay as they were, so that a difference in a commit is a difference.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
SANITISE = ROOT / "tests" / "notebooks" / "sanitise.cfg"
OWN = "geozarr_nb"  # what the notebook's metadata have of ours: `sources`, and `needs` ("cluster")
TAG_NOT_COMPARED = "nbval-ignore-output"
WIDGET = "application/vnd.jupyter.widget-view+json"
COLOURS = 96
SECONDS_A_CELL = 600


def sources_of(notebook: dict[str, Any]) -> str:
    """Return a hash of the code: outputs that were made from other code do not belong to it."""
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def needs_cluster(notebook: dict[str, Any]) -> bool:
    """Return whether it can run with a cluster only."""
    return bool(notebook["metadata"].get(OWN, {}).get("needs") == "cluster")


def sanitised(text: str) -> str:
    """Return a text without what may vary, as the comparison by nbval does."""
    for regex, replacement in re.findall(r"^regex: (.*)\nreplace: (.*)$", SANITISE.read_text(), flags=re.MULTILINE):
        text = re.sub(regex, replacement, text)
    return text


def execute(path: Path) -> None:
    """Run a notebook from its first cell on, and write it back."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    before = copy.deepcopy(notebook)
    with tempfile.TemporaryDirectory() as scratch:
        # Everything that the tutorial makes is in a temporary folder: its own jobs are all that there are.
        environ = {**os.environ, "TMPDIR": scratch, "GEOZARR_STATE_DIR": f"{scratch}/state"}
        client = NotebookClient(
            notebook, timeout=SECONDS_A_CELL, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
        )
        client.execute(env=environ, cleanup_kc=True)
        _tidy(notebook, before, scratch)
    nbformat.write(notebook, path)


def _tidy(notebook: Any, before: Any, scratch: str) -> None:
    earlier = {cell.source: cell.outputs for cell in before.cells if cell.cell_type == "code"}
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        cell.metadata.pop("execution", None)
        cell.execution_count = number
        cell.outputs = _joined(cell.outputs)
        for output in cell.outputs:
            output.pop("transient", None)
            if "execution_count" in output:
                output["execution_count"] = number
            if "text" in output:
                output["text"] = _portable(output["text"], scratch)
            if "data" in output:
                output["data"] = _readable(output["data"], scratch)
        known = earlier.get(cell.source, [])
        is_compared = TAG_NOT_COMPARED not in cell.metadata.get("tags", [])
        if is_compared and known and _comparable(known) == _comparable(cell.outputs):
            cell.outputs = known
            for output in known:
                if "execution_count" in output:
                    output["execution_count"] = number
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        OWN: {**before.metadata.get(OWN, {}), "sources": sources_of(before)},
    }


def _joined(outputs: list[Any]) -> list[Any]:
    """Return outputs with what was printed bit by bit in one piece: where it was cut differs from run to run."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output.output_type == "stream" and output.get("name") == joined[-1].get("name"):
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _portable(text: str, scratch: str) -> str:
    return re.sub(re.escape(scratch) + r"/geozarr-tutorial-\w+", "/tmp/geozarr-tutorial", text)  # noqa: S108  shown only


def _readable(data: dict[str, Any], scratch: str) -> dict[str, Any]:
    """Return what a page can show: no ids of widgets that live in a kernel, and pictures of a few kilobytes."""
    shown = {kind: _portable(value, scratch) if isinstance(value, str) else value for kind, value in data.items()}
    if len(shown) > 1:
        shown.pop(WIDGET, None)
    if "image/png" in shown:
        shown["image/png"] = _small(shown["image/png"])
    return shown


def _small(encoded: str) -> str:
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    written = io.BytesIO()
    image.quantize(COLOURS).save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def _comparable(outputs: Iterable[Any]) -> list[Any]:
    texts = []
    for output in outputs:
        shown = {"text": output.get("text", ""), **output.get("data", {})}
        # A picture is compared too: here a difference is worth a look.
        texts.append({kind: sanitised(value) if isinstance(value, str) else value for kind, value in shown.items()})
    return texts


def main(arguments: list[str]) -> int:
    """Execute the notebooks that are named, or all that need no cluster."""
    paths = [Path(argument).resolve() for argument in arguments]
    for path in paths or sorted(NOTEBOOKS.glob("*.ipynb")):
        if not paths and needs_cluster(json.loads(path.read_text())):
            print(f"{path.name}: passed over, it needs a cluster; name it to execute it")
            continue
        execute(path)
        print(f"{path.name}: executed, {path.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
