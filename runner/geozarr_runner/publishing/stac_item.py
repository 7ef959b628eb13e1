"""The STAC item of an output, which lies beside it as `<output>.stac.json`.

Its values come from existing metadata: the STAC attributes of the product (or the item that the product was opened
from), the grid and the coordinate reference system of the output, and the output's record. Hrefs are relative, so that
an output and its item can be moved together.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geozarr_runner.errors import GeozarrError, ProductBroken
from geozarr_runner.spec.options import of_result
from geozarr_runner.trust import crs
from geozarr_runner.trust.addresses import redact
from geozarr_runner.trust.bounds import from_json

if TYPE_CHECKING:
    import pystac
    from pyproj import CRS
    from pystac.extensions.raster import RasterBand

    from geozarr_runner.product.encoding import Encoding
    from geozarr_runner.product.footprint import Box, Footprint
    from geozarr_runner.product.model import Array, Group, Product

SUFFIX = ".stac.json"
MEDIA_TYPE = "application/vnd+zarr; version=3"
STORE_ASSET = "product"  # name of the asset for the whole store, as in catalogues of EOPF products
# Extensions for which pystac has no classes.
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
ZARR = "https://stac-extensions.github.io/zarr/v1.1.0/schema.json"
# Variable in which an orchestrator names the image of a run.
IMAGE_VARIABLE = "GEOZARR_RUNNER_IMAGE"
# Errors that unexpected metadata leads to.
CANNOT_BE_DESCRIBED = (ArithmeticError, AttributeError, GeozarrError, ImportError, LookupError, TypeError, ValueError)
_TIME_IN_NAME = re.compile(r"(?<!\d)(\d{8}T\d{6})(?!\d)")
_ZARR_GROUP = {"zarr:zarr_format": 3, "zarr:node_type": "group"}


def address_of(output: str | os.PathLike[str]) -> str:
    """Return the path or address of an output's item."""
    return f"{os.fspath(output).rstrip('/')}{SUFFIX}"


def write(
    path: Path,
    product: Product,
    store: Path,
    output: str,
    record: Mapping[str, Any],
    *,
    output_group: Callable[[str], str] = str,
) -> None:
    """Write the item of an output.

    Parameters
    ----------
    path
        The file to write.
    product
        The product that was converted.
    store
        The present path of the output.
    output
        The final address of the output; only its last part is used.
    record
        The output's record.
    output_group
        Returns the output's group with the native level of a product's group.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    from geozarr_runner.inspection.reader import open_product

    item = item_of(product, open_product(str(store)), output, record, output_group)
    document = item.to_dict(include_self_link=False, transform_hrefs=False)
    text = json.dumps(document, indent=2, allow_nan=False)
    path.write_text(text, encoding="utf-8")


def item_of(
    product: Product,
    result: Product,
    output: str,
    record: Mapping[str, Any],
    output_group: Callable[[str], str] = str,
) -> pystac.Item:
    """Return the STAC item of an output, with hrefs relative to the item.

    Parameters
    ----------
    product
        The product that was converted.
    result
        The opened output.
    output, record, output_group
        As for `write`.
    """
    import pystac

    name = output.rstrip("/").rpartition("/")[2]
    finished = _time(record.get("finished")) or datetime.now(UTC)
    place = _place(product, result)
    when, properties = _times(product, finished)
    item = pystac.Item(
        id=_identifier(product.name, name),
        geometry=None if place is None else dict(place.geometry),
        bbox=None if place is None else list(place.bbox),
        datetime=when,
        properties={**properties, **_platform(product), **_processing(record)},
    )
    item.common_metadata.created = finished
    item.stac_extensions += [PROCESSING, ZARR]
    item.add_link(_source(product))
    item.add_asset(
        STORE_ASSET,
        pystac.Asset(
            f"./{name}",
            title=name,
            media_type=MEDIA_TYPE,
            roles=["data"],
            extra_fields={**_ZARR_GROUP, "zarr:consolidated": result.consolidated},
        ),
    )
    rasters = list(_rasters(set(map(output_group, product.groups)), result))
    for group in rasters:
        _add_group(item, name, group, result)
    systems = {_system(result.parents.get(group.path, {})) for group in rasters} - {None}
    if len(systems) == 1 and (code := _code(systems.pop())) is not None:
        from pystac.extensions.projection import ProjectionExtension

        ProjectionExtension.ext(item, add_if_missing=True).code = code
    return item


def _identifier(product: str, output: str) -> str:
    """Return an id that differs between products, and between outputs of one product."""
    stem = output.removesuffix(".zarr")
    text = stem if product in stem else f"{product}_{stem}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


# --- where and when --------------------------------------------------------------------------------------------------


def _place(product: Product, result: Product) -> Footprint | None:
    """Return where an output lies: as the product's item or the product says it, else as the output's grids do."""
    from geozarr_runner.product.footprint import around, of_grid

    if product.footprint is not None:
        return product.footprint
    box = around(box for path, attributes in result.parents.items() if path != "/" and (box := _box_of(attributes)))
    return None if box is None else of_grid(*box)


def _box_of(attributes: Mapping[str, Any]) -> Box | None:
    """Return the box around a group of an output in degrees, by RFC 7946; None where it does not say where it lies."""
    box, system = attributes.get("spatial:bbox"), _system(attributes)
    if system is None or not isinstance(box, list) or len(box) != 4:
        return None
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    # Far from where the system holds; on another planet; a box that is none.
    with suppress(ProjError, ArithmeticError, TypeError, ValueError):
        west, south, east, north = map(float, box)
        to_degrees = Transformer.from_crs(system, "EPSG:4326", always_xy=True)
        from geozarr_runner.product.footprint import of_grid

        found = of_grid(*to_degrees.transform_bounds(west, south, east, north))
        return None if found is None else found.bbox
    return None


def _system(attributes: Mapping[str, Any]) -> CRS | None:
    """Return the reference system of a group of an output; None where it has none."""
    for name in ("proj:code", "proj:wkt2", "proj:projjson"):
        with suppress(ValueError):
            if not crs.is_nothing(attributes.get(name)):
                return crs.parsed(attributes[name])
    return None


def _times(product: Product, finished: datetime) -> tuple[datetime | None, dict[str, Any]]:
    """Return the item's time, and its other properties about time."""
    for described in (product.item, product.discovery):
        said = described.get("properties")
        if not isinstance(said, Mapping):
            continue
        when, start, end = (_time(said.get(name)) for name in ("datetime", "start_datetime", "end_datetime"))
        period = {}
        if start is not None and end is not None and start < end:
            period = {"start_datetime": _text(start), "end_datetime": _text(end)}
        if when is not None or period or start is not None:
            return when or (None if period else start), period
    if (found := _TIME_IN_NAME.search(product.name)) is not None and (when := _time(f"{found[1]}Z")) is not None:
        return when, {}
    return finished, {"description": "The product does not say when it was taken; `datetime` is when it was converted."}


def _time(text: Any) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        when = datetime.fromisoformat(text)
        return when.replace(tzinfo=when.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _text(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


# --- where it came from ----------------------------------------------------------------------------------------------


def _platform(product: Product) -> dict[str, Any]:
    """Return platform and instruments of the product, as STAC's common metadata."""
    said = product.discovery.get("properties")
    said = said if isinstance(said, Mapping) else {}
    found = {name: said[name] for name in ("platform", "constellation", "mission") if isinstance(said.get(name), str)}
    if isinstance(said.get("instrument"), str):
        found["instruments"] = [said["instrument"]]
    return found


def _processing(record: Mapping[str, Any]) -> dict[str, Any]:
    source, verified = record.get("input", {}), record.get("verified", {})
    versions = dict(record.get("versions", {}))
    groups = list(record.get("groups", ()))
    options = record.get("options")
    chosen = of_result(options) if isinstance(options, Mapping) else {}
    converter = f"eopf-geozarr {versions['eopf-geozarr']}" if "eopf-geozarr" in versions else "eopf-geozarr"
    properties = {
        "processing:lineage": f"{source.get('name')}, {', '.join(groups) or 'the whole product'}: converted to GeoZarr "
        f"by {converter}; {verified.get('variables', 0)} variables compared with the source at "
        f"{verified.get('pixels_compared', 0)} pixels",
        "processing:software": versions,
        "processing:datetime": record.get("finished"),
        "processing:expression": {
            "format": "geozarr-runner",
            "expression": {
                "input": source.get("url"),
                "input_identity": source.get("identity"),
                "groups": groups,
                **({"options": chosen} if chosen else {}),
            },
        },
        "geozarr:started": record.get("started"),
        "geozarr:request": record.get("request"),
        "geozarr:image": os.environ.get(IMAGE_VARIABLE),
    }
    return {name: value for name, value in properties.items() if value not in (None, "", {})}


def _source(product: Product) -> pystac.Link:
    import pystac

    href = str(product.item.get("href") or "")
    if href and redact(href) != redact(product.url):
        return pystac.Link(pystac.RelType.DERIVED_FROM, redact(href), pystac.MediaType.GEOJSON, product.name)
    kind = f"application/vnd+zarr; version={product.zarr_format}"
    return pystac.Link(pystac.RelType.DERIVED_FROM, redact(product.url), kind, product.name)


# --- what is in it ---------------------------------------------------------------------------------------------------


def _rasters(places: Collection[str], result: Product) -> Iterator[Group]:
    """Yield the groups of an output that are GeoZarr, without overviews."""
    for path, group in result.groups.items():
        if path in places and group.raster is not None and "spatial:dimensions" in result.parents.get(path, {}):
            yield group


def _add_group(item: pystac.Item, name: str, group: Group, result: Product) -> None:
    import pystac
    from pystac.extensions.projection import ProjectionExtension
    from pystac.extensions.raster import RasterExtension

    attributes = result.parents.get(group.path, {})
    transform = _transform(attributes)
    system = _system(attributes)
    resolution = abs(transform[0]) * _metres(system) if transform and system is not None else None
    arrays = [array for array in group.variables if len(array.shape) >= 2]
    path = group.path[1:]
    own = from_json(result.store.read(f"{path}/zarr.json") or b"{}")
    asset = pystac.Asset(
        f"./{name}/{path}",
        title=path,
        media_type=MEDIA_TYPE,
        roles=["data"],
        extra_fields={
            **_ZARR_GROUP,
            "zarr:consolidated": bool(own.get("consolidated_metadata")),
            "bands": [_described(array) for array in arrays],
        },
    )
    item.add_asset(path, asset)
    projection = ProjectionExtension.ext(asset, add_if_missing=True)
    projection.shape = list((group.shape or ())[-2:])
    if (code := _code(system)) is not None:
        projection.code = code
    elif system is not None:
        projection.wkt2 = system.to_wkt()
    if transform:
        projection.transform = transform
    if "spatial:bbox" in attributes:
        projection.bbox = list(attributes["spatial:bbox"])
    RasterExtension.ext(asset, add_if_missing=True).bands = [_band(array, resolution) for array in arrays]


def _code(system: CRS | None) -> str | None:
    """Return the code of a reference system, `EPSG:32632`; None where it has none."""
    authority = None if system is None else system.to_authority()
    return None if authority is None else ":".join(authority)


def _metres(system: CRS) -> float:
    """Return the metres of one unit of a projected system; 0 of any other, whose units have no fixed length."""
    return system.axis_info[0].unit_conversion_factor if system.is_projected and system.axis_info else 0


def _transform(attributes: Mapping[str, Any]) -> list[float] | None:
    """Return the six numbers of a group's affine transform, or those of its native level."""
    scales = attributes.get("multiscales")
    layout = scales.get("layout") if isinstance(scales, Mapping) else None
    levels = [level for level in layout if isinstance(level, Mapping)] if isinstance(layout, list) else []
    native: Mapping[str, Any] = next((level for level in levels if level.get("asset") == "."), {})
    found = attributes.get("spatial:transform") or native.get("spatial:transform")
    if not isinstance(found, list) or len(found) < 6:
        return None
    numbers = [_finite(number) for number in found[:6]]
    return [number for number in numbers if number is not None] if None not in numbers else None


def _finite(value: Any) -> float | None:
    """Return the value of an attribute as a finite float; None if it is none."""
    if not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return None
    return float(value)


def _described(array: Array) -> dict[str, Any]:
    described: dict[str, Any] = {"name": array.name}
    if isinstance(array.attributes.get("long_name"), str):
        described["description"] = array.attributes["long_name"]
    return described


def _band(array: Array, resolution: float | None) -> RasterBand:
    from pystac.extensions.raster import DataType, RasterBand

    no_data = scale = offset = None
    with suppress(ProductBroken):  # of attributes that are no numbers, or of metadata that zarr cannot read
        from geozarr_runner.product.encoding import Encoding

        encoding = Encoding.of(array)
        scale, offset = _finite(encoding.scale), _finite(encoding.offset)
        no_data = _no_data(encoding)
    unit = array.attributes.get("units")
    return RasterBand.create(
        data_type=DataType(array.dtype if array.dtype in {*DataType} else "other"),
        nodata=no_data,
        scale=scale,
        offset=offset,
        unit=unit if isinstance(unit, str) else None,
        spatial_resolution=resolution or None,
    )


def _no_data(encoding: Encoding) -> Any:
    """Return the value for no data, as the raster extension writes it; None if the array has none."""
    value = next(iter(encoding.no_data()), None)
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value
