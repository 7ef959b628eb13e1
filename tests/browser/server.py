"""A Jupyter server as a person starts one, with a home of its own: JupyterLab, Notebook and Voila from the same one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self
from urllib.request import urlopen

from tests.contract.support import until

TOKEN = "browser-tests"
SECONDS_TO_START = 180
SETTINGS = "geozarr.json"
# A notebook's settings are a file beside it, so that its cells are what a person would write and nothing else.
STARTUP = f"""
import json, os, pathlib
if (found := pathlib.Path("{SETTINGS}")).exists():
    os.environ.update(json.loads(found.read_text()))
"""
NO_NEWS = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
QUIET = {"@jupyterlab/apputils-extension:notification": {"doNotDisturbMode": True, "fetchNews": "false"}}


class JupyterServer:
    """A server for one folder, from the beginning of a ``with`` block to its end.

    Parameters
    ----------
    home
        A folder for its settings, its memory and its log.

    Attributes
    ----------
    url
        Its address, without a slash at the end.
    root
        The folder that it serves.
    """

    def __init__(self, home: Path) -> None:
        self.root = home / "notebooks"
        self._home = home
        self.url = ""

    def __enter__(self) -> Self:
        config = self._home / "config"
        profile = self._home / "ipython" / "profile_default" / "startup"
        for folder in (self.root, self._home / "runtime", profile, config / "labconfig"):
            folder.mkdir(parents=True)
        (profile / "settings.py").write_text(STARTUP)
        (config / "labconfig" / "page_config.json").write_text(json.dumps(NO_NEWS))
        (config / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(QUIET))
        own = {
            "HOME": self._home,
            "IPYTHONDIR": self._home / "ipython",
            "JUPYTER_CONFIG_DIR": config,
            "JUPYTER_DATA_DIR": self._home / "data",
            "JUPYTER_RUNTIME_DIR": self._home / "runtime",
            "JUPYTERLAB_SETTINGS_DIR": self._home / "settings",
            "JUPYTERLAB_WORKSPACES_DIR": self._home / "workspaces",
        }
        options = [
            "--no-browser",
            "--allow-root",
            "--ServerApp.ip=127.0.0.1",
            "--ServerApp.port=0",
            f"--ServerApp.root_dir={self.root}",
            f"--IdentityProvider.token={TOKEN}",
            "--ServerApp.log_level=WARN",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.news_url=",
            "--LabApp.extension_manager=readonly",
            "--LabApp.expose_app_in_browser=True",  # so that a test can change the theme
            "--VoilaConfiguration.show_tracebacks=True",
            # Made for Notebook; Voila cannot load it, and says so in the console.
            "--VoilaConfiguration.extension_denylist=['@jupyter-notebook/lab-extension']",
        ]
        self._log = (self._home / "server.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env={**_without_settings(), **{name: str(path) for name, path in own.items()}},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=self._home,
            start_new_session=True,
        )
        until(self._is_up, seconds=SECONDS_TO_START)
        return self

    def __exit__(self, *_: object) -> None:
        # Its own way to end: kernels are ended with it.
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=30)
        self._log.close()

    @property
    def log(self) -> str:
        """What it and its kernels had to say."""
        return (self._home / "server.log").read_text(errors="replace")

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self.log
        for file in (self._home / "runtime").glob("jpserver-*.json"):
            self.url = json.loads(file.read_text())["url"].rstrip("/")
            with urlopen(f"{self.url}/api/status?token={TOKEN}", timeout=10):
                return True
        return False


def _without_settings() -> dict[str, str]:
    """Return the environment without what the person who runs the tests has set for themselves."""
    ours = ("GEOZARR_", "JUPYTER", "IPYTHON", "KUBECONFIG")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
