"""Writes `golden/*.json` anew: `python -m runner.tests.make_golden`, from the repository's root.

To be done when a new converter or a new sample changes the output on purpose; the difference belongs into the commit.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from runner.tests.support import R10M, run, structure
from runner.tests.test_run import CASES, GOLDEN, GOLDEN_CASES, Case
from tests.products import sample

SAMPLES = {"s2": ("s2-l2a", 540), "s1": ("s1-grd", 300), "s3": ("s3-olci", 240)}


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        products = {name: sample(Path(folder), f"{name}.zarr", size, kind) for name, (kind, size) in SAMPLES.items()}
        for name, pixels in GOLDEN_CASES.items():
            case = CASES.get(name, Case("s2", (R10M,)))
            groups = ("--groups", *case.typed) if case.typed else ()
            done = run(products[case.product], Path(folder) / f"{name}-out.zarr", *groups)
            assert done.code == 0, done.stdout
            text = json.dumps(structure(done.output, pixels), indent=1)
            (GOLDEN / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
