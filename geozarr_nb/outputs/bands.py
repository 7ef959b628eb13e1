"""What a picture is drawn from: the bands of one group that go together, and the level with just enough pixels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from geozarr_nb.outputs.open import Level, Output
from geozarr_runner.errors import InvalidRequest

TRUE_COLOUR = (("b04", "b03", "b02"), ("oa08_radiance", "oa06_radiance", "oa04_radiance"))
POLARISATION_PAIRS = (("vv", "vh"), ("hh", "hv"))
POLARISATION = re.compile(r"(?:^|[_/])(vv|vh|hh|hv)(?=$|[_/])", re.IGNORECASE)
BANDS_OF_A_PICTURE = (1, 3)


@dataclass(frozen=True)
class Channel:
    """What one colour is drawn from: a variable of one group, at any of its levels."""

    name: str
    variable: str
    levels: tuple[Level, ...]
    index: int = 0  # along the first dimension, where the variable has more than rows and columns

    def at(self, number: int) -> Level | None:
        """Return the level of this number, if it has the variable."""
        return next((each for each in self.levels if each.number == number and self.variable in each.variables), None)


@dataclass(frozen=True)
class Bands:
    """What a picture is drawn from: one channel for grey, three for colour, two polarisations for a radar composite."""

    group: str
    channels: tuple[Channel, ...]
    is_radar: bool = False

    def levels(self) -> list[Level]:
        """Return the levels of the first channel at which every channel has pixels, as many as the others."""
        found = []
        for level in self.channels[0].levels:
            others = [channel.at(level.number) for channel in self.channels]
            if level.shape and all(other is not None and other.shape == level.shape for other in others):
                found.append(level)
        return found


def find_bands(source: Output, group: str | None, bands: tuple[str, ...]) -> Bands:
    """Return what to draw of an output.

    Parameters
    ----------
    group
        Absolute path, or as much of its end as is unique; None for the finest one with true colour, else a radar
        composite, else the first.
    bands
        One or three by name; none for true colour where it is there, else the first.

    Raises
    ------
    InvalidRequest
        No such group or band, or nothing that can be drawn.
    """
    if bands and len(bands) not in BANDS_OF_A_PICTURE:
        raise InvalidRequest("a picture takes one band or three", given=", ".join(bands), remedy="name one or three")
    groups = _drawable(source)
    if not groups:
        raise InvalidRequest(
            "no group has anything with rows and columns", given=source.address, remedy="convert a group with rasters"
        )
    paths = [_resolve(group, groups, source)] if group is not None else _ranked(groups, source)
    if bands:
        return _scene_of(bands, {path: groups[path] for path in paths}, source)
    for names in TRUE_COLOUR:
        for path in paths:
            if (scene := _scene(path, names, groups[path])) is not None and scene.levels():
                return scene
    if (radar := _radar_scene({path: groups[path] for path in paths})) is not None:
        return radar
    levels = groups[paths[0]]
    variable = next(name for level in levels for name in level.variables)
    shape = source.rasters(levels[0].path).get(variable, ())
    if len(shape) == 3 and shape[0] == 3:  # a ready-made picture, such as Sentinel-2's quicklook
        colours = tuple(Channel(f"{variable}[{index}]", variable, levels, index) for index in range(3))
        return Bands(paths[0], colours)
    return Bands(paths[0], (Channel(variable, variable, levels),))


def _drawable(source: Output) -> dict[str, tuple[Level, ...]]:
    """Return the levels of every group that has rasters, alone or through its overviews."""
    groups = {path: levels for path, levels in source.pyramids.items() if any(level.shape for level in levels)}
    for path in source.groups:
        if path not in groups and (rasters := source.rasters(path)):
            rows, columns = max(shape[-2:] for shape in rasters.values())
            groups[path] = (Level(0, path, (rows, columns), tuple(rasters)),)
    return groups


def _ranked(groups: Mapping[str, tuple[Level, ...]], source: Output) -> list[str]:
    """Return the groups to look for a picture in: multiscale ones first, then the finest."""

    def rank(path: str) -> tuple[bool, int]:
        return path not in source.pyramids, -max(
            level.shape[0] * level.shape[1] for level in groups[path] if level.shape
        )

    overviews = {level.path for levels in source.pyramids.values() for level in levels} - set(source.pyramids)
    return sorted((path for path in groups if path not in overviews), key=rank)


def _resolve(group: str, groups: Iterable[str], source: Output) -> str:
    name = "/" + group.strip("/ ")
    matches = [path for path in groups if path == name] or [path for path in groups if path.endswith(name)]
    if len(matches) == 1:
        return matches[0]
    near = matches or get_close_matches(name, list(groups), n=3, cutoff=0.4) or list(groups)[:8]
    raise InvalidRequest(
        "more than one group has this name" if matches else "no such group with something to draw",
        given=f"group={group!r} in {source.address}",
        remedy=f"choose one of: {', '.join(near)}",
    )


def _scene(path: str, bands: Sequence[str], levels: tuple[Level, ...]) -> Bands | None:
    """Return the scene of these bands of one group, by variable name or polarisation; None if one is not there."""
    channels = []
    for band in bands:
        variables = {name for level in levels for name in level.variables}
        matches = [name for name in variables if name == band or _polarisation(path, name) == band.lower()]
        if not matches:
            return None
        channels.append(Channel(band, min(matches, key=lambda name: (name != band, name)), levels))
    radar = all(_polarisation(path, channel.variable) for channel in channels)
    return Bands(path, tuple(channels), is_radar=radar)


def _scene_of(bands: tuple[str, ...], groups: Mapping[str, tuple[Level, ...]], source: Output) -> Bands:
    for path, levels in groups.items():
        if (scene := _scene(path, bands, levels)) is not None and scene.levels():
            return scene
    known = sorted({name for levels in groups.values() for level in levels for name in level.variables})
    missing = [band for band in bands if band not in known]
    near = [name for band in missing for name in get_close_matches(band, known, n=2)] or known[:20]
    raise InvalidRequest(
        f"no such band: {', '.join(missing)}" if missing else "no group has these bands at one resolution",
        given=f"bands={', '.join(bands)} in {source.address}",
        remedy=f"choose from: {', '.join(near)}",
    )


def _radar_scene(groups: Mapping[str, tuple[Level, ...]]) -> Bands | None:
    found: dict[str, tuple[str, Channel]] = {}
    for path, levels in groups.items():
        for variable in levels[0].variables:
            if polarisation := _polarisation(path, variable):
                found.setdefault(polarisation, (path, Channel(polarisation, variable, levels)))
    for co, cross in POLARISATION_PAIRS:
        if co in found and cross in found:
            paths = found[co][0], found[cross][0]
            title = paths[0] if paths[0] == paths[1] else " + ".join(paths)
            scene = Bands(title, (found[co][1], found[cross][1]), is_radar=True)
            if scene.levels():
                return scene
    for path, channel in found.values():
        return Bands(path, (channel,), is_radar=True)
    return None


def _polarisation(path: str, variable: str) -> str | None:
    if variable.lower() in ("vv", "vh", "hh", "hv"):
        return variable.lower()
    named = POLARISATION.findall(path)
    return str(named[-1]).lower() if named and variable == "grd" else None


def choose_level(scene: Bands, wanted: int | str, enough: int) -> Level:
    """Return the level to read: by number, "native", "coarsest", or "auto" for the coarsest of `enough` pixels.

    Raises
    ------
    InvalidRequest
        The scene's bands are not all there at this level.
    """
    usable = scene.levels()
    if wanted == "native" and usable:
        return usable[0]
    if wanted == "coarsest" and usable:
        return usable[-1]
    if wanted == "auto" and usable:
        sufficient = [level for level in usable if level.shape and max(level.shape) >= enough]
        return sufficient[-1] if sufficient else usable[0]
    for level in usable:
        if str(level.number) == str(wanted):
            return level
    numbers = ", ".join(str(level.number) for level in usable)
    raise InvalidRequest(
        f"{', '.join(channel.name for channel in scene.channels)} cannot be drawn at this level",
        given=f"level={wanted!r} of {scene.group}",
        remedy=f'use "auto", "native", "coarsest" or one of: {numbers}' if usable else "choose another group",
    )
