"""Stored objects that are not what their array says, found before they are decoded.

One that was cut off decodes to whatever happens to be in memory. One of 32 kB may become 1.1 GB: its header says so,
and an array says how much it has room for.
"""

from __future__ import annotations

import bz2
import lzma
import math
import mmap
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from geozarr_runner.events import human_bytes
from geozarr_runner.product.model import Array

BLOSC_HEADER = 16  # bytes; the last four of them are the frame's length
ZSTD_MAGIC = 0xFD2FB528
ZSTD_SKIPPED = 0x184D2A50  # and the fifteen after it
ZSTD_BLOCK = 128 * 1024  # bytes that one block becomes at most
MOST_BLOCKS = 1_000_000  # an honest frame of the largest chunks has some ten thousand
# A header, a checksum or an index comes on top of the values.
SLACK = 16_000_000
# A text has no size of its own, so an array does not say how much it has room for.
TEXT = 256_000_000
PIECE = 16_000_000  # bytes that come out at once: zlib copies all that is left for each of them
LZMA_MEMORY = 512_000_000
ABSENT = 2**64 - 1  # in a shard's index: this inner chunk was not written
MOST_IN_A_SHARD = 1_000_000

Bytes = bytes | memoryview | mmap.mmap


class Oversized(ValueError):
    """A frame becomes more than its array has room for."""

    def __init__(self, size: int | None, room: int) -> None:
        becomes = "more" if size is None else human_bytes(size)
        super().__init__(f"decoded it has {becomes}, where its array has room for {human_bytes(room)}")


@dataclass(frozen=True, slots=True)
class Flaw:
    """A stored object that is not what its array says."""

    key: str
    what: str

    def __str__(self) -> str:
        return self.what


def flaws(array: Array, root: Path) -> Iterator[Flaw]:
    """Yield the objects of an array in a store on this machine that are not what it says, where their format tells."""
    packing = _packing(array.metadata, array.chunks)
    if packing is None:
        return
    itemsize = 0 if array.is_text else array.itemsize
    for key in array.object_keys():
        try:
            with (root / key).open("rb") as file:
                size = file.seek(0, 2)
                content: Bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except FileNotFoundError:
            continue
        try:
            what = _flaw(packing, content, itemsize)
        finally:
            if isinstance(content, mmap.mmap):
                content.close()
        if what is not None:
            yield Flaw(key, what)


def inner_chunks_absent(array: Array, file: Path) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield the chunks that a shard has not, each as its start and length along each dimension; `flaws` passed it."""
    packing = _packing(array.metadata, array.chunks)
    if packing is None or packing.shard is None:
        return
    shard = packing.shard
    length = 16 * shard.count + shard.checksum
    with file.open("rb") as content:
        content.seek(max(content.seek(0, 2) - length, 0) if shard.at_end else 0)
        index = np.frombuffer(content.read(16 * shard.count), dtype="<u8").reshape(-1, 2)
    counts = [-(-whole // edge) for whole, edge in zip(array.chunks, packing.shape, strict=True)]
    for number in np.flatnonzero((index == ABSENT).all(axis=1)).tolist():
        places = np.unravel_index(number, counts)
        yield tuple((int(place) * edge, edge) for place, edge in zip(places, packing.shape, strict=True))


def room_for(shape: Sequence[int], itemsize: int) -> int:
    """Return how many bytes a chunk may have once it is decoded; an item size of 0 is that of a text."""
    return (math.prod(shape) * itemsize if itemsize else TEXT) + SLACK


def check_size(codec: str, frame: Bytes, room: int, options: Mapping[str, Any]) -> None:
    """Look at a frame before it is decoded: in its header, or by counting what comes out where that does not tell.

    Parameters
    ----------
    codec
        Its name in Zarr v2, without a prefix; others than the compressors pass.
    room
        Bytes that may come out.
    options
        The codec's own.

    Raises
    ------
    Oversized
        More would come out.
    """
    match codec:
        case "blosc":
            size = int.from_bytes(frame[4:8], "little")
        case "lz4":
            size = int.from_bytes(frame[:4], "little")
        case "zstd":
            zstd = _zstd(frame)
            if zstd is None:
                raise Oversized(None, room)
            size = zstd.size
        case "zlib" | "gzip" | "bz2" | "lzma":
            size = 0
            for piece in _pieces(codec, frame, options):
                size += len(piece)
                if size > room:
                    raise Oversized(None, room)
        case _:
            return
    if size > room:
        raise Oversized(size, room)


@dataclass(frozen=True, slots=True)
class _Zstd:
    """What frames of Zstandard become at most, and whether they come to their end."""

    size: int
    is_whole: bool


def _zstd(content: Bytes) -> _Zstd | None:
    """Return what frames of Zstandard (RFC 8878) say of themselves, by their headers and those of their blocks.

    None where there are more frames and blocks than anybody can count.
    """
    size, place, seen = 0, 0, 0
    last = 1
    while place + 5 <= len(content):
        seen += 1
        if seen > MOST_BLOCKS:
            return None
        magic = int.from_bytes(content[place : place + 4], "little")
        if magic & ~0xF == ZSTD_SKIPPED:
            place += 8 + int.from_bytes(content[place + 4 : place + 8], "little")
            continue
        if magic != ZSTD_MAGIC:
            break
        descriptor = content[place + 4]
        single, checksum = descriptor >> 5 & 1, descriptor >> 2 & 1
        place += 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
        width = (single, 2, 4, 8)[descriptor >> 6]
        said = int.from_bytes(content[place : place + width], "little") + (256 if width == 2 else 0)
        place += width
        at_most = last = 0
        while place + 3 <= len(content) and seen <= MOST_BLOCKS:
            seen += 1
            block = int.from_bytes(content[place : place + 3], "little")
            last, kind, length = block & 1, block >> 1 & 3, block >> 3
            place += 3 + (1 if kind == 1 else length)
            at_most += ZSTD_BLOCK if kind == 2 else length
            if last:
                break
        place += 4 * checksum
        size += said if width else at_most
    return _Zstd(size, bool(last) and place == len(content)) if seen <= MOST_BLOCKS else None


def _pieces(codec: str, frame: Bytes, options: Mapping[str, Any]) -> Iterator[bytes]:
    """Decode a stream piece by piece, one member after the other; what is no such stream is left to its decoder."""
    rest = bytes(frame)
    try:
        while rest:
            decoder: Any = _decoder(codec, options)
            source = rest
            while not decoder.eof:
                piece = decoder.decompress(source, PIECE)
                source = getattr(decoder, "unconsumed_tail", b"")
                if not piece and not source:
                    return
                yield piece
            rest = decoder.unused_data if codec != "zlib" else b""
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
        return


def _decoder(codec: str, options: Mapping[str, Any]) -> Any:
    match codec:
        case "zlib":
            return zlib.decompressobj()
        case "gzip":
            return zlib.decompressobj(wbits=31)
        case "bz2":
            return bz2.BZ2Decompressor()
        case _:
            form = options.get("format", lzma.FORMAT_XZ)
            if form == lzma.FORMAT_RAW:
                return lzma.LZMADecompressor(form, filters=options.get("filters"))
            return lzma.LZMADecompressor(form, memlimit=LZMA_MEMORY)


# --- how an array is packed ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Packing:
    """What is outermost in each stored object of an array."""

    codec: str
    options: Mapping[str, Any]
    shape: tuple[int, ...]  # of what it holds
    tail: int = 0  # bytes of a checksum behind it
    filtered: bool = False
    shard: _Shard | None = None


@dataclass(frozen=True, slots=True)
class _Shard:
    count: int
    at_end: bool
    checksum: int


def _packing(metadata: Mapping[str, Any], shape: tuple[int, ...]) -> _Packing | None:
    """Return how an array's objects are packed; None where that is not by a codec that is known here."""
    if metadata.get("zarr_format") == 2:
        compressor = metadata.get("compressor")
        if not isinstance(compressor, Mapping):
            return None
        return _Packing(str(compressor.get("id")), compressor, shape, filtered=bool(metadata.get("filters")))
    return _packing_of(metadata.get("codecs"), shape)


def _packing_of(codecs: Any, shape: tuple[int, ...]) -> _Packing | None:
    chain = [codec for codec in codecs if isinstance(codec, Mapping)] if isinstance(codecs, list) else []
    tail = 0
    while chain and chain[-1].get("name") == "crc32c":
        chain, tail = chain[:-1], tail + 4
    if not chain:
        return None
    options = chain[-1].get("configuration")
    options = options if isinstance(options, Mapping) else {}
    name = str(chain[-1].get("name")).removeprefix("numcodecs.")
    if name != "sharding_indexed":
        return _Packing(name, options, shape, tail)
    return _packing_of_shards(options, shape) if not tail else None


def _packing_of_shards(options: Mapping[str, Any], shape: tuple[int, ...]) -> _Packing | None:
    inner, index = options.get("chunk_shape"), options.get("index_codecs")
    if not isinstance(inner, list) or len(inner) != len(shape) or not isinstance(index, list):
        return None
    if not all(isinstance(edge, int) and edge > 0 for edge in inner):
        return None
    names = [codec.get("name") if isinstance(codec, Mapping) else None for codec in index]
    packing = _packing_of(options.get("codecs"), tuple(inner))
    if packing is None or packing.shard is not None or names not in (["bytes"], ["bytes", "crc32c"]):
        return None
    count = math.prod(-(-whole // edge) for whole, edge in zip(shape, inner, strict=True))
    shard = _Shard(count, options.get("index_location", "end") == "end", 4 * (len(names) - 1))
    return _Packing(packing.codec, packing.options, packing.shape, packing.tail, packing.filtered, shard)


def _flaw(packing: _Packing, content: Bytes, itemsize: int) -> str | None:
    if packing.shard is None:
        return _flaw_of_frame(packing, content, itemsize)
    shard = packing.shard
    length = 16 * shard.count + shard.checksum
    if shard.count > MOST_IN_A_SHARD:
        return f"it holds {shard.count} chunks, and {MOST_IN_A_SHARD} are the most"
    if length > len(content):
        return f"it is cut off: it has {len(content)} bytes, and its index alone has {length}"
    start = len(content) - length if shard.at_end else 0
    if shard.checksum:
        said = int.from_bytes(content[start + 16 * shard.count : start + length], "little")
        if said != google_crc32c.value(bytes(content[start : start + 16 * shard.count])):
            return "it is cut off, or its index is damaged: the index has another checksum"
    index = np.frombuffer(content[start : start + 16 * shard.count], dtype="<u8").reshape(-1, 2)
    for offset, size in index.tolist():
        if (offset, size) == (ABSENT, ABSENT):
            continue
        if offset + size > len(content):
            return f"its index points outside: to {offset + size} of {len(content)} bytes"
        if (what := _flaw_of_frame(packing, content[offset : offset + size], itemsize)) is not None:
            return what
    return None


def _flaw_of_frame(packing: _Packing, frame: Bytes, itemsize: int) -> str | None:
    if packing.codec == "blosc":
        said, size = int.from_bytes(frame[12:BLOSC_HEADER], "little"), len(frame) - packing.tail
        if size < BLOSC_HEADER or said != size:
            return f"it is cut off: it has {size} bytes, and its header says {said}"
    if packing.codec == "zstd":
        content = frame[: len(frame) - packing.tail]
        if (found := _zstd(content)) is not None and not (found.is_whole and len(content)):
            return f"it is cut off: its {len(content)} bytes end before its last block does"
    width = max(itemsize, 8) if itemsize and packing.filtered else itemsize  # a filter may have widened the values
    try:
        check_size(packing.codec, frame, room_for(packing.shape, width), packing.options)
    except Oversized as error:
        return str(error)
    return None
