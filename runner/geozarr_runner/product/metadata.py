"""Metadata documents of arrays: zarr itself parses them, and none of them names what runs code or has no bounds.

What a document says of shape, chunks and keys has to hold before anything of the product can be shown; what else is
wrong with one array leaves the other groups of a product usable.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from geozarr_runner.trust.bounds import LARGEST_OBJECT, MOST_OBJECTS
from geozarr_runner.trust.keys import flaw

MOST_BYTES = 2**63 - 1
MOST_DIMENSIONS = 64  # numpy's own bound
LARGEST_VALUE = 1_000_000  # bytes of one value
# What zarr and its codecs raise about a document: each library has its own habits.
UNUSABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
# Codecs whose decoding is arithmetic on bytes. All others stay closed, whoever has registered or installed them: the
# registries import a codec by the name that a product gives.
# fmt: off
CODECS_V2 = frozenset({
    "adler32", "astype", "base64", "bitround", "blosc", "bz2", "categorize", "crc32", "crc32c", "delta",
    "fixedscaleoffset", "fletcher32", "gzip", "jenkins_lookup3", "json2", "lz4", "lzma", "msgpack2", "packbits",
    "pcodec", "quantize", "shuffle", "vlen-array", "vlen-bytes", "vlen-utf8", "zfpy", "zlib", "zstd",
})
CODECS_V3 = frozenset({
    "blosc", "bytes", "cast_value", "crc32c", "endian", "gzip", "scale_offset", "sharding_indexed", "transpose",
    "vlen-bytes", "vlen-utf8", "zstd", *(f"numcodecs.{name}" for name in CODECS_V2),
})
# fmt: on
RUNS_CODE = re.compile(r"pickle", re.IGNORECASE)
_ENCODINGS = {"default": "/", "v2": "."}  # with the separator where none is given
# No type needs a number of this length to say its size, and numpy would make room for such a value.
_LONG_NUMBER = re.compile(r"\d{8,}")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What an array's document says.

    Attributes
    ----------
    shape, chunks
        Size of the array and of one stored object, in pixels; a stored object has one at least.
    dtype
        The name of the data type, as it is stored.
    unusable
        Why its values cannot be read; empty where they can.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    unusable: str = ""


def parse(document: Mapping[str, Any]) -> Parsed:
    """Return what an array's document says.

    Parameters
    ----------
    document
        `.zarray` (Zarr v2) or `zarr.json` (v3), with or without its attributes.

    Raises
    ------
    ValueError
        It does not say where the array's objects lie, or names places that cannot be.
    """
    try:
        v2 = document["zarr_format"] == 2
        shape = _sizes(document["shape"])
        chunks = _sizes(document["chunks"] if v2 else document["chunk_grid"]["configuration"]["chunk_shape"])
        if len(shape) > MOST_DIMENSIONS:
            raise ValueError(f"it has {len(shape)} dimensions, and {MOST_DIMENSIONS} are possible")
        if len(chunks) != len(shape):
            raise ValueError("shape and chunks differ in length")
        if any(size and not chunk for size, chunk in zip(shape, chunks, strict=True)):
            raise ValueError(f"chunks of {' x '.join(map(str, chunks))} pixels hold nothing")
        dtype = document["dtype" if v2 else "data_type"]
        chunks = tuple(max(chunk, 1) for chunk in chunks)  # an empty array may have empty chunks
        last = tuple(max(-(-size // chunk) - 1, 0) for size, chunk in zip(shape, chunks, strict=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what zarr finds unusual is not the matter of whoever looks
            skeleton = _skeleton_v2(document) if v2 else _skeleton_v3(document, shape, chunks)
            key = object_key(document, last)
            if key != skeleton.encode_chunk_key(last):
                raise ValueError("it does not say how its objects are named")
            if (wrong := flaw(key)) is not None:
                raise ValueError(f"the names of its objects cannot be paths: {wrong}")
            unusable = _unusable_codec(document) or _unusable_values(document, shape, chunks, dtype)
    except UNUSABLE as error:
        raise ValueError(_sentence(error)) from error
    if not isinstance(dtype, str):
        name = dtype.get("name") if isinstance(dtype, Mapping) else None
        dtype = name if isinstance(name, str) else "structured"
    return Parsed(shape, chunks, dtype, unusable)


def object_key(document: Mapping[str, Any], index: tuple[int, ...]) -> str:
    """Return the key of one stored object of an array, relative to it; `index` counts objects along each dimension."""
    if document.get("zarr_format") == 2:
        name, separator = "v2", document.get("dimension_separator", ".")
    else:
        encoding = document.get("chunk_key_encoding", {"name": "default"})
        name, options = encoding["name"], encoding.get("configuration", {})
        separator = encoding.get("separator", options.get("separator", _ENCODINGS.get(name)))
    if name == "v2":
        return str(separator).join(map(str, index)) if index else "0"
    return str(separator).join(["c", *map(str, index)])


def written_by_zarr(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return an array's document as zarr writes it, without its attributes; as it is where zarr cannot read it."""
    from zarr.core.buffer import default_buffer_prototype

    with warnings.catch_warnings(), suppress(*UNUSABLE):
        warnings.simplefilter("ignore")
        if not _unusable_codec(document):
            buffers = _parsed_by_zarr(document).to_buffer_dict(default_buffer_prototype())
            written: dict[str, Any] = json.loads(
                buffers[".zarray" if document["zarr_format"] == 2 else "zarr.json"].to_bytes()
            )
            written.pop("attributes", None)
            return written
    return dict(document)


def values_of(document: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return an array's type in numpy's words, and its fill value as one of that type; None where it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = _parsed_by_zarr(document)
        return parsed.dtype.to_native_dtype(), parsed.fill_value


def figure(number: int) -> str:
    """Return a number that may be of any size, to be read by a person."""
    return f"{number:,}" if number < 10**15 else f"about 10^{len(str(number)) - 1}"


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(size) is int and 0 <= size < 2**63 for size in values):
        raise ValueError(f"{str(values)[:60]} is no list of sizes")
    return tuple(values)


def _skeleton_v2(document: Mapping[str, Any]) -> Any:
    """Return what zarr makes of a document's places, whatever its values are."""
    from zarr.core.metadata.v2 import ArrayV2Metadata

    places = {key: document[key] for key in ("shape", "chunks", "dimension_separator") if key in document}
    values = {"dtype": "|u1", "fill_value": None, "order": "C", "compressor": None, "filters": None}
    return ArrayV2Metadata.from_dict({"zarr_format": 2, **places, **values})


def _skeleton_v3(document: Mapping[str, Any], shape: tuple[int, ...], chunks: tuple[int, ...]) -> Any:
    from zarr.core.metadata.v3 import ArrayV3Metadata

    if document["chunk_grid"].get("name") != "regular":
        raise ValueError("its chunks are not of one size")
    encoding = document.get("chunk_key_encoding", {"name": "default"})
    if not isinstance(encoding, Mapping) or encoding.get("name") not in _ENCODINGS:  # others would be imported
        raise ValueError("its chunk_key_encoding is none")
    return ArrayV3Metadata.from_dict(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "chunk_grid": document["chunk_grid"],
            "chunk_key_encoding": dict(encoding),
            "dimension_names": document.get("dimension_names"),
            "data_type": "uint8",
            "fill_value": 0,
            "codecs": [{"name": "bytes"}],
        }
    )


def _codec_names(document: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the names of all codecs of an array, those within shards included."""
    if document["zarr_format"] == 2:
        for codec in (document.get("compressor"), *(document.get("filters") or ())):
            if codec is not None:
                yield codec.get("id") if isinstance(codec, Mapping) else codec
        return
    waiting = list(document.get("codecs") or ())
    while waiting:
        codec = waiting.pop()
        yield codec.get("name") if isinstance(codec, Mapping) else codec
        options = codec.get("configuration") if isinstance(codec, Mapping) else None
        for name in ("codecs", "index_codecs"):
            inner = options.get(name) if isinstance(options, Mapping) else None
            waiting += inner if isinstance(inner, list) else ()


def _unusable_codec(document: Mapping[str, Any]) -> str:
    known = CODECS_V2 if document["zarr_format"] == 2 else CODECS_V3
    for name in _codec_names(document):
        if not isinstance(name, str):
            return "one of its codecs has no name"
        if RUNS_CODE.search(name):
            return f"it is stored with the codec {name[:60]}, which runs code when it is read"
        if name not in known:
            return f"it is stored with the codec {name[:60]}, which is none of zarr's own"
    return ""


def _unusable_values(document: Mapping[str, Any], shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any) -> str:
    """Return why values that zarr may decode cannot be read all the same."""
    values = math.prod(shape)
    objects = math.prod(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))
    if objects > MOST_OBJECTS:
        return f"it is stored in {figure(objects)} objects, and {figure(MOST_OBJECTS)} can be converted"
    try:
        if _LONG_NUMBER.search(json.dumps(dtype)):
            return f"its data type {str(dtype)[:60]} is out of all bounds"
        each = _type_of_zarr(document, dtype).to_native_dtype().itemsize
        if not each:
            return f"its data type {str(dtype)[:60]} has no size"
        if each > LARGEST_VALUE:
            return f"each of its values has {figure(each)} bytes, and {figure(LARGEST_VALUE)} are possible"
        if max(values, math.prod(chunks)) * each > MOST_BYTES:
            return (
                f"it has {figure(max(values, math.prod(chunks)) * each)} bytes, and {figure(MOST_BYTES)} are possible"
            )
        at_once = math.prod(_decoded_at_once(getattr(_parsed_by_zarr(document), "codecs", ()), chunks)) * each
        if at_once > LARGEST_OBJECT:
            return f"each of its chunks has {figure(at_once)} bytes, and {figure(LARGEST_OBJECT)} can be decoded"
    except UNUSABLE as error:
        return f"zarr cannot read it: {_sentence(error)}"
    return ""


def _decoded_at_once(codecs: Iterable[Any], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Return the pixels that are decoded together: those of a stored object, or of an inner chunk of a shard."""
    from zarr.codecs import ShardingCodec

    shard = next((codec for codec in codecs if isinstance(codec, ShardingCodec)), None)
    return chunks if shard is None else _decoded_at_once(shard.codecs, shard.chunk_shape)


def _type_of_zarr(document: Mapping[str, Any], dtype: Any) -> Any:
    from zarr.core.dtype import get_data_type_from_json
    from zarr.core.metadata.v2 import get_object_codec_id

    if document["zarr_format"] != 2:
        return get_data_type_from_json(dtype, zarr_format=3)
    codecs = (*(document.get("filters") or ()), document.get("compressor"))
    return get_data_type_from_json({"name": dtype, "object_codec_id": get_object_codec_id(codecs)}, zarr_format=2)


def _parsed_by_zarr(document: Mapping[str, Any]) -> Any:
    from zarr.core.metadata.v2 import ArrayV2Metadata
    from zarr.core.metadata.v3 import ArrayV3Metadata

    if document["zarr_format"] == 2:
        return ArrayV2Metadata.from_dict({**document, "attributes": {}})
    return ArrayV3Metadata.from_dict({**document, "node_type": "array", "attributes": {}})


def _sentence(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"it has no {str(error)[:200]}"
    return " ".join(str(error).split())[:200] or type(error).__name__
