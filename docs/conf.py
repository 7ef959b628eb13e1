"""How Sphinx builds the documentation: `make docs`. Nothing here asks the network for anything."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "geozarr_nb"
copyright = "the authors of geozarr_nb"  # noqa: A001  Sphinx's own name for it
release = version = installed_version("geozarr-nb")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "derived"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"geozarr_nb {release}"
html_static_path: list[str] = []
# What is printed and what is typed stands on the pages as it is.
smartquotes = False

# The tutorials are committed with their outputs, which tests compare; building the pages runs nothing.
nb_execution_mode = "off"
# A progress bar of a job is a widget: without a front end its text form stands for it.
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

# Docstrings write code in single backticks.
default_role = "code"
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# Everything of ours that is referred to has to be there; other projects' names have no page in an offline build.
nitpick_ignore_regex = [(r"py:.*", r"(?!geozarr_(nb|runner)\b).*")]
# Ours, and on no page: what callers neither make nor need to know, and a name for three strings.
nitpick_ignore = [
    ("py:class", "geozarr_nb.backends.base.Backend"),
    ("py:class", "geozarr_nb.jobs.log_lines.Lines"),
    ("py:class", "geozarr_nb.outputs.location.FinishedJob"),
    ("py:class", "geozarr_nb.samples.products.SampleKind"),
    ("py:class", "geozarr_runner.stores.store.Store"),
]
