"""The whole way, without a browser: a wrong group mended, a job cancelled and run again, its result looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import geozarr_nb as gz
from geozarr_nb.api import jobs
from geozarr_nb.widgets import App, Monitor
from tests.contract.support import until
from tests.unit.widgets_support import R60M, SECONDS, button, inside, shown


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOZARR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def status(app: App | Monitor) -> str:
    monitor = app.monitor if isinstance(app, App) else app
    state = monitor.states.get(monitor.selected)
    return "" if state is None else state.status


def test_from_a_product_to_its_picture(sample: Path, tmp_path: Path) -> None:
    app = gz.ui(str(sample), "out.zarr", groups=["r60m"])
    assert app.wait(SECONDS)
    button(app.picker, f"Use {R60M}").click()
    assert app.wait(SECONDS)
    button(app.form, "Convert").click()
    button(app.form, "Convert").click()
    assert app.wait(SECONDS)
    name = app.form.job.name
    assert app.monitor.selected == name
    assert len(gz.list_jobs()) == 1

    until(lambda: status(app) == "Running")
    button(app.monitor, "Cancel").click()
    until(lambda: status(app) == "Failed")
    assert "cancelled" in shown(app.monitor)
    assert not (tmp_path / "out.zarr").exists()
    until(lambda: not button(app.monitor, "Run again").disabled)
    app.close()  # as a kernel that ends

    monitor = Monitor()
    until(lambda: name in monitor.states)
    monitor.selected = name
    button(monitor, "Run again").click()
    until(lambda: status(monitor) == "Succeeded", seconds=240)
    until(lambda: any("verified" in line for line in monitor.log))
    assert "attempt 2" in shown(monitor)
    assert f'gz.get_job("{name}").open()' in shown(monitor).replace("&quot;", '"')
    button(monitor, "View result").click()
    until(lambda: "<img" in shown(monitor))
    monitor.close()


def test_the_monitor_follows_the_form_to_another_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def watch_jobs(stop: object, backend: str | None = None) -> list[gz.Job]:
        seen.append(backend)
        raise gz.InvalidRequest("no cluster is here")

    monkeypatch.setattr(jobs, "watch_jobs", watch_jobs)
    app = gz.ui()
    until(lambda: seen == ["local"])
    app.form.backend = "argo"
    until(lambda: "argo" in seen)
    app.close()


def test_it_says_what_there_is_where_no_front_end_answers(sample: Path) -> None:
    app = gz.ui(str(sample), groups=[R60M])
    assert app.wait(SECONDS)
    text = app._repr_mimebundle_()["text/plain"]
    for part in ("Product and groups: Sentinel-2 L2A", "Output and job:", "Jobs: no jobs yet", "Result:"):
        assert part in text
    app.close()


def test_its_headings_are_in_the_order_of_the_work(sample: Path) -> None:
    app = gz.ui(str(sample))
    text = shown(app)
    assert text.index("1. Product") < text.index("2. Output") < text.index("3. Jobs") < text.index("4. Result")
    app.close()


def test_any_front_end_of_ipywidgets_can_show_it(sample: Path) -> None:
    app = gz.ui(str(sample))
    assert app.wait(SECONDS)
    everything = [*inside(app), *(each.layout for each in inside(app))]
    # Neither a front end's extension of ours, nor `Output`, which loses what threads write.
    assert {each._model_module for each in everything} == {"@jupyter-widgets/base", "@jupyter-widgets/controls"}
    app.close()


def test_without_ipywidgets_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['ipywidgets'] = None\n"
        "import geozarr_nb as gz\n"
        "try:\n    gz.ui()\nexcept gz.InvalidRequest as error:\n    sys.stdout.write(str(error))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "geozarr-nb[notebook]"' in run.stdout
