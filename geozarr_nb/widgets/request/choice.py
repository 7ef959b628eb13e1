"""What is to be converted: a product and some of its groups, with what that costs and what is wrong with it.

It is the model behind `Picker` and `Form`, and holds no widget. Whatever it asks of a store it asks in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import traitlets

from geozarr_nb.api import products
from geozarr_nb.errors import GeozarrError, InvalidRequest
from geozarr_nb.settings import Settings
from geozarr_nb.widgets.blocks.background import SEEN, Worker, sentence
from geozarr_runner.events import human_bytes
from geozarr_runner.planning.estimate import Estimate
from geozarr_runner.planning.groups import GroupReport
from geozarr_runner.product.model import Product
from geozarr_runner.spec.request import normalise
from geozarr_runner.trust.addresses import redact

SECONDS_AFTER_A_TICK = 0.4
# Measured on two cores: the start of the converter, what it writes, and a remote product over one good line.
SECONDS_TO_START = 5
WRITTEN_A_SECOND = 60e6
DOWNLOADED_A_SECOND = 25e6


class Choice(traitlets.HasTraits):
    """A product and the groups of it that are wanted.

    Parameters
    ----------
    source
        As for `geozarr_nb.inspect`; None is what the settings name, if they name one.
    groups
        As for `geozarr_nb.validate`; None is what the settings name.
    whole
        None: where there are no groups.

    Attributes
    ----------
    source
        May be set; the product is then read in the background.
    groups
        Paths of groups; may be set.
    whole
        The whole product in the converter's own layout, whatever `groups` has; may be set.
    product
        What was read; None before, and where it could not be.
    error
        Why it could not be read.
    available
        The groups that can be converted.
    report
        What became of the wanted groups; None while none are.
    cost
        The estimate for those that were found; None while unknown.
    note
        Why the cost is not known, where the store did not tell.
    busy
        What is being done: "" for nothing, "reading", "estimating".
    """

    source = traitlets.Any(None, allow_none=True)
    groups = traitlets.Tuple(())
    whole = traitlets.Bool(False)
    product = traitlets.Any(None, allow_none=True)
    error = traitlets.Any(None, allow_none=True)
    available = traitlets.Tuple(())
    report = traitlets.Any(None, allow_none=True)
    cost = traitlets.Any(None, allow_none=True)
    note = traitlets.Unicode("")
    busy = traitlets.Unicode("")

    def __init__(
        self, source: Any = None, groups: str | Iterable[str] | None = None, *, whole: bool | None = None
    ) -> None:
        super().__init__()
        self._reader, self._checker = Worker("product"), Worker("estimate")
        self._costs: dict[tuple[str, str, tuple[str, ...]], Estimate] = {}
        settings = Settings.load()
        self.groups = normalise(settings.groups if groups is None else groups)
        # A choice of no groups is the whole product to every call: here it is said with a word of its own.
        self.whole = not self.groups if whole is None else whole
        self.observe(self._read, "source")
        self.observe(self._check, ["product", "groups", "whole"])
        self.source = source or _named(settings)

    @traitlets.validate("groups")
    def _normalised(self, proposal: dict[str, Any]) -> tuple[str, ...]:
        return normalise(proposal["value"], {})

    @property
    def wanted(self) -> list[str]:
        """The groups as every call takes them: empty for the whole product."""
        return [] if self.whole else list(self.groups)

    @property
    def address(self) -> str:
        """How the source is named in a field where it can be typed."""
        source = self.source
        if source is None or isinstance(source, str):
            return source or ""
        if isinstance(source, dict):
            return f"STAC item {source.get('id', '')}"
        return redact(str(getattr(source, "url", None) or getattr(source, "id", None) or source))

    @property
    def is_begun(self) -> bool:
        """There is something that can be right or wrong; before, what is missing is no fault."""
        return self.error is not None or self.report is not None

    @property
    def problems(self) -> list[str]:
        """What keeps this from being converted as it was asked for, a sentence each."""
        if self.error is not None:
            return [sentence(self.error)]
        if self.product is None:
            return [] if self.busy else ["give a product's address"]
        if not self.whole and not self.groups:
            return ["choose at least one group, or the whole product"]
        if self.report is None:
            return []
        missing = [f"the product has no group {group}{self._instead(group)}" for group in self.report.missing]
        unfit = [
            f"{group} cannot be converted: {why}{self._instead(group)}" for group, why in self.report.unfit.items()
        ]
        return missing + unfit

    def _instead(self, group: str) -> str:
        near = self.report.suggestions.get(group, ())
        return f"; {' or '.join(near)} may be meant" if near else ""

    def toggle(self, path: str) -> None:
        """Choose a group, or leave it out where it was chosen."""
        if path in self.groups:
            self.groups = tuple(group for group in self.groups if group != path)
        else:
            self.groups = (*self.groups, path)

    def replace(self, group: str, better: str) -> None:
        """Choose a group in another one's place."""
        self.groups = tuple(better if chosen == group else chosen for chosen in self.groups)

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether all that was asked of stores was answered within so many seconds."""
        return self._reader.wait(timeout) and self._checker.wait(timeout)

    def _read(self, _: Any) -> None:
        with SEEN:
            self._ask_for_product()

    def _ask_for_product(self) -> None:
        source = self.source

        def work() -> tuple[Product, tuple[str, ...]]:
            product = products.inspect(source)
            return product, products.validate(product, ()).available

        self._reader.drop()
        self.product, self.error, self.available = None, None, ()
        self.busy = "reading" if source else ""
        if source:
            self._reader.start_latest(work, self._have_read, delay=0)

    def _have_read(self, answer: tuple[Product, tuple[str, ...]] | GeozarrError) -> None:
        if isinstance(answer, GeozarrError):
            self.error = answer
        else:
            product, self.available = answer
            self.product = product
        if self.busy == "reading":
            self.busy = ""

    def _check(self, _: Any) -> None:
        with SEEN:
            self._ask_for_cost()

    def _ask_for_cost(self) -> None:
        product, wanted = self.product, self.wanted
        key = ("", "", ()) if product is None else (product.identity, product.url, tuple(wanted))

        def work() -> tuple[GroupReport, Estimate | GeozarrError | None]:
            report = products.validate(product, wanted)
            if wanted and not report.found:
                return report, None
            try:
                return report, self._costs.get(key) or products.estimate(product, wanted)
            except GeozarrError as error:
                return report, error

        def done(answer: tuple[GroupReport, Estimate | GeozarrError | None] | GeozarrError) -> None:
            self.report, cost = (None, answer) if isinstance(answer, GeozarrError) else answer
            if isinstance(cost, GeozarrError):
                self.note = f"the cost is not known: {sentence(cost)}"
            elif cost is not None:
                self._costs[key] = cost
                self.cost = cost
            self.busy = ""

        self._checker.drop()
        self.report, self.cost, self.note = None, None, ""
        if product is not None and (self.whole or wanted):
            self.busy = "estimating"
            delay = 0 if key in self._costs else SECONDS_AFTER_A_TICK
            self._checker.start_latest(work, done, delay)
        elif self.busy == "estimating":
            self.busy = ""


def describe_cost(cost: Estimate) -> str:
    """Return an estimate in a line."""
    objects = "one object" if cost.requests == 1 else f"{cost.requests:,} objects"
    if cost.download_bytes is None:
        read = f"{objects} to read, of unknown size"
    else:
        more = "" if cost.exact else " or more"
        read = (
            f"{human_bytes(cost.download_bytes)}{more} to {'download' if cost.staging_bytes else 'read'} in {objects}"
        )
    return f"{read}; output about {human_bytes(cost.output_bytes)}; memory about {human_bytes(cost.memory_bytes)}; " + (
        _time_class(cost)
    )


def _time_class(cost: Estimate) -> str:
    """Return how long it takes, as no more than an order of magnitude."""
    download = cost.staging_bytes / DOWNLOADED_A_SECOND
    seconds = SECONDS_TO_START + cost.output_bytes / WRITTEN_A_SECOND + download
    for limit, text in ((30, "less than a minute"), (240, "some minutes"), (1200, "up to half an hour")):
        if seconds < limit:
            return text
    return "half an hour or more"


def _named(settings: Settings) -> str | None:
    """Return the product that the settings name; None where they hold a placeholder."""
    try:
        return settings.required("stac_url")
    except InvalidRequest:
        return None
