"""Where an output goes, and what its job may use; the same as code."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

import ipywidgets
import traitlets

from geozarr_nb.api import submission
from geozarr_nb.backends import backend_type, names
from geozarr_nb.errors import GeozarrError
from geozarr_nb.jobs.job import Job
from geozarr_nb.pods import PODS
from geozarr_nb.request import Request
from geozarr_nb.settings import Settings
from geozarr_nb.widgets.blocks.background import SEEN, Worker, sentence
from geozarr_nb.widgets.blocks.panel import Panel, change, code, flow, forget, lines, status
from geozarr_nb.widgets.request.choice import Choice
from geozarr_nb.widgets.request.code_snippets import CLAIM, argo_command, python_call
from geozarr_nb.widgets.request.form_fields import menu, option_field, product_field, text_field, whole_product
from geozarr_runner.spec.options import OPTIONS
from geozarr_runner.spec.request import normalise
from geozarr_runner.text.shell import listed
from geozarr_runner.trust.addresses import redact
from geozarr_runner.trust.names import output_name

TEMPLATES = "the template's own"


class Form(Panel):
    """Say where the output goes and how the job runs, and submit it.

    Parameters
    ----------
    source, output, groups, backend
        As for `geozarr_nb.submit`; None is what the settings name.
    choice
        The model that says what to convert, where a `Picker` shares it; the form then has no field for the product.

    Attributes
    ----------
    request
        What would be submitted, once it was checked; None before, and where it is refused.
    refusal
        Why it is refused: the error that `geozarr_nb.submit` would raise.
    ready
        It was checked, and can be submitted.
    submitting
        It is being submitted.
    waiting
        What the submission waits for, where it says so.
    job
        The job that was submitted last.
    """

    request = traitlets.Any(None, allow_none=True)
    refusal = traitlets.Any(None, allow_none=True)
    ready = traitlets.Bool(False)
    submitting = traitlets.Bool(False)
    waiting = traitlets.Unicode("")
    job = traitlets.Any(None, allow_none=True)

    def __init__(
        self,
        source: Any = None,
        output: str | os.PathLike[str] | None = None,
        *,
        groups: str | Iterable[str] | None = None,
        backend: str | None = None,
        choice: Choice | None = None,
    ) -> None:
        self._settings = Settings.load()
        own = choice is None
        self.choice = choice or Choice(source, groups)
        self._checker, self._submitter = Worker("check"), Worker("submit")
        self._submitted: dict[str, Any] | None = None
        self._proposed = ""
        self._groups = text_field(
            "Groups", "paths, with commas between them", "Paths of the groups to convert", wide=True
        )
        self._output = text_field(
            "Output", "path of the GeoZarr", "Path of the GeoZarr that will be written", wide=True
        )
        self._kinds = {name: backend_type(name) for name in names()}
        self._backend = menu(
            "Runs on", [(kind.label, name) for name, kind in self._kinds.items()], "Where the conversion runs"
        )
        self._options = {name: option_field(option) for name, option in OPTIONS.items() if option.label}
        claim = self._settings.pvc_name
        self._claim = text_field("Claim", claim, "Persistent volume claim that the output is written to")
        self._pods = {name: option_field(option) for name, option in PODS.items()}
        for field in self._pods.values():
            field.placeholder = TEMPLATES
        self._cluster = flow(self._claim, *self._pods.values())
        self._submit = ipywidgets.Button(
            description="Convert", button_style="primary", disabled=True, tooltip="Submits the conversion once"
        )
        self._state = ipywidgets.HTML()
        self._python, self._argo = ipywidgets.HTML(), ipywidgets.HTML()
        product = [product_field(self.choice), whole_product(self.choice)] if own else []
        head = (*product, self._groups, self._output, flow(self._backend, *self._options.values()))
        tail = (flow(self._submit, self._state), self._python, self._argo)
        in_pods = (*head, self._cluster, *tail)
        self._parts = {name: in_pods if kind.uses_image else (*head, *tail) for name, kind in self._kinds.items()}
        super().__init__("Output and job", ())
        self._fill(output, backend)
        self._connect()
        self._follow_choice(None)

    def _fill(self, output: str | os.PathLike[str] | None, backend: str | None) -> None:
        settings = self._settings
        self._output.value = os.fspath(output) if output else settings.output_zarr
        for name, field in self._options.items():
            field.value = self._without(name)
        self._claim.value = settings.pvc_name
        for name, field in self._pods.items():
            field.value = _text(getattr(settings, name))
        self._backend.value = backend or settings.backend
        self.children = self._parts[self.backend]

    def _connect(self) -> None:
        self._groups.observe(self._give_groups, "value")
        self._backend.observe(lambda _: change(self, children=self._parts[self.backend]), "value")
        for field in (self._output, self._backend, *self._options.values(), *self._cluster.children):
            field.observe(self._check, "value")
        self._submit.on_click(lambda _: self.submit())
        self.choice.observe(self._follow_choice, ["source", "product", "groups", "whole"])
        self.choice.observe(self._show, ["report", "error", "busy"])
        self.observe(self._show, ["request", "refusal", "ready", "submitting", "waiting", "job"])

    @property
    def output(self) -> str:
        """The output as it is given to `geozarr_nb.submit`; may be set."""
        path, claim = str(self._output.value).strip(), str(self._claim.value).strip()
        if self._in_pods and claim not in ("", self._settings.pvc_name) and "://" not in path:
            return f"{CLAIM}{claim}/{path.lstrip('/')}"
        return path

    @output.setter
    def output(self, path: str | os.PathLike[str]) -> None:
        self._output.value = os.fspath(path)

    @property
    def backend(self) -> str:
        """Where the job will run; may be set."""
        return str(self._backend.value)

    @backend.setter
    def backend(self, name: str) -> None:
        self._backend.value = name

    def observe_backend(self, changed: Callable[[str], None]) -> None:
        """Have another place for jobs told when it is chosen."""
        self._backend.observe(lambda event: changed(event["new"]), "value")

    @property
    def if_exists(self) -> str:
        """What happens when the output is there: error, skip, overwrite; may be set."""
        return str(self._options["if_exists"].value)

    @if_exists.setter
    def if_exists(self, value: str) -> None:
        self._options["if_exists"].value = value

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `geozarr_nb.submit` beside the source."""
        return {
            "output": self.output or None,
            "groups": self.choice.wanted,
            "backend": self.backend,
            **{name: self._given(name) for name in self._options},
            **{name: self._of_pods(name) for name in self._pods},
        }

    @property
    def _in_pods(self) -> bool:
        return self._kinds[self.backend].uses_image

    def _without(self, name: str) -> Any:
        """Return what an option is where nobody chooses it."""
        default = OPTIONS[name].default
        return getattr(self._settings, name) if default is None else default

    def _given(self, name: str) -> Any:
        """Return what a field says; None where the settings say the same."""
        value = self._options[name].value
        return None if OPTIONS[name].default is None and value == self._without(name) else value

    def _of_pods(self, name: str) -> Any:
        """Return what a field of the cluster's says; None where it says what holds without it."""
        text = str(self._pods[name].value).strip()
        if not self._in_pods or text in ("", _text(getattr(self._settings, name))):
            return None
        return _number(text) if name == "time_limit" else text

    @property
    def code(self) -> str:
        """The same as a call in Python; empty before there is a product."""
        return python_call(self._address, self.arguments, self._settings) if self._address else ""

    @property
    def command(self) -> str:
        """The same as a command of Argo's client; empty before there is a product."""
        return argo_command(self._address, self.arguments, self._settings) if self._address and self.output else ""

    @property
    def _address(self) -> str:
        source, product = self.choice.source, self.choice.product
        if isinstance(source, str) and source:
            return source
        return "" if product is None else str(product.url)

    @property
    def problems(self) -> list[str]:
        """What keeps the request from being submitted, or a group from being converted, a sentence each."""
        found = list(self.choice.problems)
        # A refusal of the groups says what the choice says already.
        if self.refusal is not None and not (found and self.refusal.code == "groups-missing"):
            found.append(sentence(self.refusal))
        return found

    def submit(self) -> None:
        """Submit the request as it stands, in the background; nothing happens before it is ready, or a second time."""
        with SEEN:
            if self.submitting or not self.ready:
                return
            self._checker.drop()
            self.ready, self.submitting, self.waiting = False, True, ""
            product, arguments = self.choice.product, self.arguments

        def done(answer: Job | GeozarrError) -> None:
            if isinstance(answer, GeozarrError):
                self.refusal = answer
            else:
                self._submitted = {"product": product, **arguments}
                self.job = answer
            self.submitting = False
            # What was refused may be asked for again: the reason may lie outside, and be mended there.
            self.ready = self.refusal is not None
            if {"product": product, **arguments} != {"product": self.choice.product, **self.arguments}:
                self._check(None)  # something was changed meanwhile

        def tell(text: str) -> None:
            self.waiting = text

        self._submitter.start(lambda: submission.submit(product, **arguments), done, tell)

    def close(self) -> None:
        """Take the widget away, the fields of the place that is not chosen included."""
        for part in {part for parts in self._parts.values() for part in parts} - {*self.children}:
            forget(part)
        super().close()

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether everything was checked, and submitted, within so many seconds."""
        return all(each.wait(timeout) for each in (self.choice, self._checker, self._submitter))

    @property
    def text(self) -> str:
        """What is shown, as lines of text."""
        found = [redact(self._address) or "no product yet"]
        found += [f"  {line}" for line in self.code.splitlines()[1:]]
        found += [f"  problem: {problem}" for problem in self.problems]
        return "\n".join([*found, f"  {self._verdict()}"])

    # From the widgets to the choice, and back

    def _give_groups(self, event: dict[str, Any]) -> None:
        groups = normalise(event["new"], {})
        if groups != tuple(self.choice.groups):
            self.choice.groups = groups

    def _follow_choice(self, _: Any) -> None:
        choice = self.choice
        # What is being typed is left as it is: it need not be spelled as the choice spells it.
        if normalise(self._groups.value, {}) != tuple(choice.groups):
            change(self._groups, value=listed(choice.groups, ", "))
        change(self._groups, disabled=bool(choice.whole))
        if choice.product is not None and self._output.value in ("", self._proposed):
            self._proposed = output_name(choice.product.name)
            change(self._output, value=self._proposed)
        self._check(None)

    def _check(self, _: Any) -> None:
        """Have the request checked as it stands now, once nothing was changed for a moment."""
        with SEEN:
            self._ask()

    def _ask(self) -> None:
        self._checker.drop()
        self.ready, self.request, self.refusal = False, None, None
        self._show(None)
        choice, arguments = self.choice, self.arguments
        product = choice.product
        if product is None or not (choice.whole or choice.groups) or self.submitting:
            return
        # A look at a cluster's claim may have to start a pod there: that is left to the submission.
        in_pods = self._in_pods
        claim = str(self._claim.value).strip() if in_pods else None

        def check() -> Request:
            self._settings.with_arguments(pvc_name=claim)
            return submission.check(product, **arguments, look=not in_pods)

        def done(answer: Request | GeozarrError) -> None:
            if isinstance(answer, GeozarrError):
                self.refusal = answer
            else:
                self.request = answer
                self.ready = not self.submitting and self._submitted != {"product": product, **arguments}

        self._checker.start_latest(check, done)

    def _show(self, _: Any) -> None:
        with SEEN:
            self._paint()

    def _paint(self) -> None:
        change(self._submit, disabled=not self.ready)
        mark = "Problem" if self.choice.is_begun or self.refusal is not None else ""
        change(self._state, value=status(lines(self.problems, mark) + lines([self._verdict()])))
        change(self._python, value=self.code and lines(["The same in a cell:"]) + code(self.code, "Python code"))
        shell = self.command and lines(["The same with Argo's client:"]) + code(self.command, "Shell command")
        if shell and "://" not in self._address:
            shell += lines(["a cluster cannot read a product of this machine: give its address on the web"], "Note")
        change(self._argo, value=shell)

    def _verdict(self) -> str:
        """Return how far it is, in a sentence."""
        if self.submitting:
            return f"Submitting: {self.waiting}" if self.waiting else "Submitting ..."
        if self.refusal is not None:
            return "Not submitted"
        if self.ready:
            return f"Ready: writes {self.request.output}"
        if self.job is not None and self._submitted == {"product": self.choice.product, **self.arguments}:
            return f"Submitted as {self.job.name}; to submit again, change something"
        return "Checking ..." if self.choice.product is not None and not self.problems else "Not ready yet"


def _text(setting: str | float) -> str:
    return setting if isinstance(setting, str) else f"{setting:.10g}" if setting else ""


def _number(text: str) -> float | str:
    """Return the number that a text holds; a text that holds none as it is, for a check to refuse it."""
    try:
        number = float(text)
    except ValueError:
        return text
    if not isfinite(number):
        return text
    return int(number) if number.is_integer() else number
