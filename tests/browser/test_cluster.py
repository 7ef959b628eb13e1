"""The same by clicking, with the job and its output on a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

import geozarr_nb as gz
from benchmarks.server import ProductServer
from tests.browser.lab import UI, Lab
from tests.browser.test_story import R60M
from tests.cluster.support import Namespace, fresh_namespace

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """A namespace of this module's own: its jobs are in nobody's way."""
    with fresh_namespace() as made:
        yield made


def test_from_a_product_to_its_picture_on_a_cluster(
    lab: Lab,
    namespace: Namespace,
    product_server: ProductServer,
    served: Path,
    sample: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab.settings |= {**namespace.settings, "KUBECONFIG": os.environ["KUBECONFIG"]}
    for name, value in lab.settings.items():
        monkeypatch.setenv(name, value)
    address = f"{product_server.url}/{sample.relative_to(served)}"
    notebook = lab.open(UI.format(f"{address!r}, 'browser/r60m.zarr', groups='{R60M}'"))
    notebook.run()
    ui = notebook.ui
    expect(ui.text("a cluster with Argo Workflows")).to_have_count(1)
    ui.wait_until_ready()
    notebook.picture("ready", ui.whole)

    ui.convert.dblclick()
    expect(ui.text("Submitted as")).to_be_visible()
    [job] = gz.list_jobs().jobs
    ui.wait_for_status(job.name, "Succeeded")
    ui.wait_for_log("verified")
    ui.button("View result").click()
    ui.wait_for_picture()
    notebook.picture("result", ui.whole)
    assert len(gz.list_jobs().jobs) == 1, "a double click submits once"
    assert job.output == "pvc://geozarr-pvc/browser/r60m.zarr"
