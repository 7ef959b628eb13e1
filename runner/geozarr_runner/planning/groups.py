"""Which groups are wanted, which of them there are, and what to choose instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from difflib import SequenceMatcher
from typing import Any

from geozarr_runner.errors import GeozarrError, GroupsMissing
from geozarr_runner.kinds.base import LOOK, Profile
from geozarr_runner.kinds.profiles import profile_of
from geozarr_runner.product.emptiness import sentence
from geozarr_runner.product.model import Group, Product, Refusal
from geozarr_runner.spec.options import Groups
from geozarr_runner.spec.request import normalise
from geozarr_runner.text import html
from geozarr_runner.text.printable import printable
from geozarr_runner.text.shell import listed, word

SHOWN = 25
MOST_REASONS = 3
ALIKE = 0.6


@dataclass(frozen=True)
class GroupReport:
    """What became of the wanted groups.

    Attributes
    ----------
    wanted
        As they were asked for, normalised; empty for the whole product.
    found
        Those that will be converted.
    missing
        Those that the product does not have.
    unfit
        Those that it has, and why each cannot become GeoZarr. Of a whole product those that keep it from being
        converted: an array of theirs cannot be read, or their pixels would lie elsewhere.
    available
        Every group of the product that can be chosen.
    suggestions
        For each missing or unfit group what to choose instead, best first.
    warnings
        Options that will have no effect.
    empty
        Variables of which nothing is stored, where that is known without a request.
    refused
        Why nothing of the product can be converted; empty where something can.
    instead
        What to type instead, where nothing can be converted.
    """

    product: str
    wanted: tuple[str, ...]
    found: tuple[str, ...]
    missing: tuple[str, ...]
    unfit: Mapping[str, str]
    available: tuple[str, ...]
    suggestions: Mapping[str, tuple[str, ...]]
    warnings: tuple[str, ...] = field(default=())
    empty: tuple[str, ...] = field(default=())
    refused: str = ""
    instead: str = ""

    @property
    def ok(self) -> bool:
        """True when everything that was asked for can be done."""
        return not self.missing and not self.unfit and bool(self.available)

    @property
    def lines(self) -> tuple[str, ...]:
        """The report, a line each."""
        if self.refused:
            unfit = [f"Unfit: {group}: {why}" for group, why in list(self.unfit.items())[:SHOWN]]
            return tuple(map(printable, [f"Refused: {self.refused}", *unfit, f"Instead: {self.instead}"]))
        shown = list(self.available[:SHOWN])
        if len(self.available) > SHOWN:
            shown.append(f"... and {len(self.available) - SHOWN} more")
        lines = [f"Available: {', '.join(shown)}"]
        if self.missing:
            lines.append(f"Missing: {', '.join(self.missing)}")
        lines += [f"Unfit: {group}: {why}" for group, why in list(self.unfit.items())[:SHOWN]]
        if len(self.unfit) > SHOWN:
            lines.append(f"Unfit: ... and {len(self.unfit) - SHOWN} more")
        lines += [f"Suggestions: {group} -> {' or '.join(near)}" for group, near in self.suggestions.items() if near]
        lines += [f"Without effect: {warning}" for warning in self.warnings]
        lines += [f"Empty: {sentence(path)}" for path in self.empty[:SHOWN]]
        return tuple(map(printable, lines))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {"ok": self.ok, **asdict(self)}

    def __repr__(self) -> str:
        verdict = "cannot be converted" if self.refused else "ok" if self.ok else "not as asked"
        chosen = ", ".join(self.found) or ("the whole product" if self._is_whole else "nothing")
        title = printable(f"{self.product}: {verdict}; would convert {chosen}")
        return "\n".join([title, *(f"  {line}" for line in self.lines)])

    @property
    def _is_whole(self) -> bool:
        return self.ok and not self.wanted

    def _repr_html_(self) -> str:
        rows = [(group, "will be converted", "") for group in self.found]
        rows += [(group, "missing", " or ".join(self.suggestions.get(group, ()))) for group in self.missing]
        rows += [(group, why, " or ".join(self.suggestions.get(group, ()))) for group, why in self.unfit.items()]
        rows += [("", warning, "") for warning in self.warnings]
        rows += [("", sentence(path), "") for path in self.empty]
        if self._is_whole:
            rows.append(("the whole product", "will be converted", ""))
        if self.refused:
            rows.insert(0, ("the whole product", self.refused, self.instead))
        title = f"{self.product}: {'cannot be converted' if self.refused else 'ok' if self.ok else 'not as asked'}"
        return html.block(
            title,
            html.table(("group", "", "instead"), rows[:SHOWN]),
            html.facts(
                {"available": ", ".join(self.available[:SHOWN]) + (" ..." if len(self.available) > SHOWN else "")}
            ),
        )

    def raise_for_missing(self, *, all_needed: bool) -> None:
        """Raise when this cannot go on.

        Parameters
        ----------
        all_needed
            True wants every group; False is content as long as one is left.

        Raises
        ------
        GroupsMissing
        """
        why = [f"{group}: {reason}" for group, reason in list(self.unfit.items())[:SHOWN]]
        if self.refused:
            reasons = [self.refused, *(why if self.wanted else ())]
            raise GroupsMissing("; ".join(reasons), given=self.product, remedy=self.instead)
        lost = (*self.missing, *self.unfit)
        if not lost or (self.found and not all_needed):
            return
        available = ", ".join(map(_typed, self.available[:SHOWN]))
        if not self.wanted:
            raise GroupsMissing(
                f"the whole product cannot be converted: {'; '.join(why)}",
                given=self.product,
                remedy=f"choose of the other groups, groups=[...]: {available}",
            )
        near = [
            f"{' or '.join(map(_typed, found))} instead of {_typed(group)}"
            for group, found in self.suggestions.items()
            if found
        ]
        absent = f"the product has no {', '.join(self.missing)}" if self.missing else ""
        raise GroupsMissing(
            "; ".join(filter(None, [absent, *why])),
            given=", ".join(self.wanted),
            remedy=("choose " + "; ".join(near)) if near else f"choose of: {available}",
        )


def report(
    product: Product,
    groups: Groups | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    reads: bool = False,
) -> GroupReport:
    """Compare the wanted groups with a product.

    Parameters
    ----------
    groups
        In any form that `normalise` takes.
    options
        Further options of the run by name (`validate_groups`, `dask_cluster`), to say which have no effect.
    reads
        Look also at values that decide whether it can be converted, for a few requests: see `Profile.misplaced`.
    """
    wanted = normalise(groups)
    profile = profile_of(product)
    reasons = {path: _unfit(profile, product, group) for path, group in product.groups.items()}
    misplaced: dict[str, Refusal] = {}
    if reads:
        chosen = dict.fromkeys(path for name in wanted for path in profile.resolve(product, name)) or reasons
        misplaced = profile.misplaced(product, [product.groups[path] for path in chosen if reasons[path] is None])
        reasons |= {path: refused.why for path, refused in misplaced.items()}
    available = tuple(path for path, reason in reasons.items() if reason is None)
    found: dict[str, None] = {}
    missing: list[str] = []
    unfit: dict[str, str] = {}
    held: dict[str, tuple[str, ...]] = {}
    if not wanted:
        unfit = {
            path: reason
            for path, group in product.groups.items()
            if (group.unusable or path in misplaced) and (reason := reasons[path])
        }
    for name in wanted:
        resolved = profile.resolve(product, name)
        if not resolved:
            children = [path for path in product.groups if path.startswith(name.rstrip("/") + "/")]
            if children or name in product.parents:
                unfit[name] = "it holds no data itself, only groups"
            elif holders := _holders(product, profile, name):
                unfit[name] = f"it is a variable, and groups go whole; {' and '.join(holders)} holds it"
                held[name] = tuple(path for path in holders if reasons[path] is None)
            elif reads and _is_unknown(product, name):
                unfit[name] = (
                    "the product has it, and its consolidated metadata do not know it: whoever publishes it has to "
                    "consolidate them again, zarr.consolidate_metadata(store)"
                )
            else:
                missing.append(name)
        found.update(dict.fromkeys(path for path in resolved if reasons[path] is None))
        lost = [reason for path in resolved if (reason := reasons[path]) is not None]
        if lost and len(lost) == len(resolved):
            unfit[name] = lost[0]
    refusal = _refusal(product, reasons)
    if refusal is not None and misplaced:
        refusal = Refusal(refusal.why, next(iter(misplaced.values())).instead)
    return GroupReport(
        product=product.name,
        wanted=wanted,
        found=tuple(found),
        missing=tuple(missing),
        unfit=unfit,
        available=available,
        suggestions={
            name: held.get(name) or _instead(product, name, available) for name in (*missing, *unfit) if name in wanted
        },
        warnings=profile.without_effect(wanted, options or {}),
        empty=product.empty(found or (available if not wanted else ())),
        refused=refusal.why if refusal is not None else "",
        instead=refusal.instead if refusal is not None else "",
    )


def _is_unknown(product: Product, name: str) -> bool:
    """Return whether a group is there that consolidated metadata lack, which are older than it."""
    documents = ("zarr.json",) if product.zarr_format == 3 else (".zgroup", ".zarray")
    if not product.consolidated:
        return False
    with suppress(GeozarrError, ValueError):  # of a name that can be no key
        return any(product.store.read(f"{name.strip('/')}/{document}") is not None for document in documents)
    return False


def _holders(product: Product, profile: Profile, name: str) -> tuple[str, ...]:
    """Return the groups that hold a variable of this path; none where there is no such variable."""
    group, _, variable = name.rpartition("/")
    paths = profile.resolve(product, group) if group else ()
    return tuple(path for path in paths if any(array.name == variable for array in product.groups[path].arrays))


def _refusal(product: Product, reasons: Mapping[str, str | None]) -> Refusal | None:
    """Return why nothing of a product can be converted: for its kind, or because no group of it is fit."""
    if product.refusal is not None:
        return Refusal(f"{product.kind}: {product.refusal.why}", product.refusal.instead)
    if not all(reasons.values()):
        return None
    counted = Counter(filter(None, reasons.values()))
    usual = "; ".join(reason for reason, _ in counted.most_common(MOST_REASONS))
    why = f"no group of this product can become GeoZarr{f': {usual}' if usual else ', as none holds arrays'}"
    return Refusal(why, LOOK)


def _unfit(profile: Profile, product: Product, group: Group) -> str | None:
    """Return why a group cannot become GeoZarr, also where it or what has to lie beside it cannot be read."""
    if group.unusable:
        return group.unusable
    if (reason := profile.unfit(product, group)) is not None:
        return reason
    beside = (product.groups[path] for path in profile.companions(product, (group.path,)))
    return next((f"{other.path}: {other.unusable}" for other in beside if other.unusable), None)


def _typed(group: str) -> str:
    """Return a group's path as it can be given alone, as a text of Python's as well as in a shell."""
    return word(listed([group]))


def _instead(product: Product, name: str, available: Sequence[str]) -> tuple[str, ...]:
    """Return what to choose instead of a group: what resembles it, or what the product's item names."""
    return suggest(name, available) or tuple(group for group in product.proposed if group in available)


def suggest(name: str, available: Iterable[str], most: int = 3) -> tuple[str, ...]:
    """Return the groups that may have been meant, best first.

    Groups below `name` or ending with it come first, then those alike in letters, as a whole or in their last part.
    """

    def likeness(path: str) -> float:
        if path.startswith(name.rstrip("/") + "/"):
            return 2.0
        if path.endswith(name):
            # r60m ends many paths.
            return 3.0 if path.startswith("/measurements") else 2.0
        whole = SequenceMatcher(None, name.lower(), path.lower()).ratio()
        last = SequenceMatcher(None, name.rpartition("/")[2].lower(), path.rpartition("/")[2].lower()).ratio()
        return max(whole, 0.9 * last)

    # Of those that are equally alike, data are meant more often than masks.
    ranked = sorted(
        ((likeness(path), path) for path in available),
        key=lambda pair: (-pair[0], not pair[1].startswith("/measurements")),
    )
    return tuple(path for score, path in ranked[:most] if score >= ALIKE and score > ranked[0][0] - 0.5)
