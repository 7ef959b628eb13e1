"""Stored objects that become far more than their array says, when they are decoded."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr

from geozarr_runner.errors import ProductBroken
from geozarr_runner.inspection.reader import open_product
from geozarr_runner.product.chunk_check import SLACK, Oversized, check_size, flaws
from geozarr_runner.product.guard import guard
from runner.tests.support import write_terrain
from tests.hostile.support import bounded

ROOM = 1_000_000
LARGE = 2_000_000


def zstd(content: bytes) -> bytes:
    return bytes(numcodecs.Zstd(3).encode(content))


def zstd_without_a_size(content: bytes) -> bytes:
    """Return a frame whose header does not tell: blocks that each repeat one byte."""
    blocks, step = [], 128 * 1024
    for place in range(0, len(content), step):
        length = min(step, len(content) - place)
        last = place + step >= len(content)
        blocks.append((length << 3 | 1 << 1 | last).to_bytes(3, "little") + b"\0")
    return (0xFD2FB528).to_bytes(4, "little") + bytes([0, 0x38]) + b"".join(blocks)


def in_pieces(encode: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Return an encoder of several frames, each of which would fit."""

    def encoded(content: bytes) -> bytes:
        half = len(content) // 4
        return b"".join(encode(content[place : place + half]) for place in range(0, len(content), half))

    return encoded


def blosc(content: bytes) -> bytes:
    return bytes(numcodecs.Blosc("zstd").encode(content))


def after_a_skipped_frame(content: bytes) -> bytes:
    return (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"12345" + zstd(content)


ENCODED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "zstd": ("zstd", zstd),
    "zstd, no size": ("zstd", zstd_without_a_size),
    "zstd, frames": ("zstd", in_pieces(zstd)),
    "zstd, skipped": ("zstd", after_a_skipped_frame),
    "blosc": ("blosc", blosc),
    "lz4": ("lz4", lambda content: bytes(numcodecs.LZ4().encode(content))),
    "zlib": ("zlib", zlib.compress),
    "gzip": ("gzip", gzip.compress),
    "gzip, members": ("gzip", in_pieces(gzip.compress)),
    "bz2": ("bz2", bz2.compress),
    "bz2, streams": ("bz2", in_pieces(bz2.compress)),
    "lzma": ("lzma", lzma.compress),
}


@pytest.mark.parametrize("kind", ENCODED)
def test_what_becomes_more_than_there_is_room_for_is_seen_before_it_is_decoded(kind: str) -> None:
    codec, encode = ENCODED[kind]
    check_size(codec, encode(bytes(ROOM - 200_000)), ROOM, {})
    with pytest.raises(Oversized):
        check_size(codec, encode(bytes(LARGE)), ROOM, {})


@pytest.mark.parametrize("kind", ENCODED)
def test_a_frame_that_is_cut_off_is_left_to_its_decoder(kind: str) -> None:
    codec, encode = ENCODED[kind]
    whole = encode(np.random.default_rng(1).bytes(100_000)) if kind != "zstd, no size" else encode(bytes(100_000))
    for length in (0, 1, 3, 5, 7, 20, len(whole) // 2, len(whole) - 1):
        check_size(codec, whole[:length], ROOM, {})
        check_size(codec, bytes(255 - each for each in whole[:50]), 2**62, {})


def test_blocks_without_end_are_not_counted_to_their_end() -> None:
    with pytest.raises(Oversized):
        check_size("zstd", (0xFD2FB528).to_bytes(4, "little") + bytes([0, 0x38]) + bytes(9_000_000), ROOM, {})


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("codec", ["zstd", "blosc", "gzip"])
def test_a_guarded_array_decodes_what_fits_alone(zarr_format: Any, codec: str, tmp_path: Path) -> None:
    array = arrays(tmp_path / "a.zarr", zarr_format, codec)
    array[:] = np.arange(64).reshape(8, 8)
    guarded = guard(zarr.open_array(tmp_path / "a.zarr", mode="r"), "here")
    np.testing.assert_array_equal(guarded[:], np.arange(64).reshape(8, 8))
    chunk = tmp_path / "a.zarr" / ("0.0" if zarr_format == 2 else "c/0/0")
    chunk.write_bytes(ENCODED[codec][1](bytes(LARGE + SLACK)))
    with pytest.raises(ProductBroken, match="room for"):
        guarded[:]
    chunk.write_bytes(b"no such thing")
    with pytest.raises(ProductBroken, match="cannot be decoded"):
        guarded[:]


def arrays(path: Path, zarr_format: Any, codec: str) -> Any:
    if zarr_format == 2:
        options: dict[str, Any] = {"zstd": {"level": 1}, "blosc": {}, "gzip": {}}[codec]
        compressor: Any = numcodecs.get_codec({"id": codec, **options})
    else:
        compressor = {
            "zstd": zarr.codecs.ZstdCodec(),
            "blosc": zarr.codecs.BloscCodec(),
            "gzip": zarr.codecs.GzipCodec(),
        }[codec]
    return zarr.create_array(
        path, shape=(8, 8), chunks=(4, 4), dtype="int32", compressors=compressor, zarr_format=zarr_format
    )


def sharded(path: Path) -> Path:
    array = zarr.create_array(path, shape=(8, 8), chunks=(2, 2), shards=(8, 8), dtype="int32", zarr_format=3)
    array[:] = np.arange(64).reshape(8, 8)
    return path / "c" / "0" / "0"


def lies(index: np.ndarray[Any, Any], size: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return indices of a shard that are not true."""
    outside, huge, wrapped, same = (index.copy() for _ in range(4))
    outside[0] = (size * 1000, 20)
    huge[0] = (0, 2**62)
    wrapped[0] = (2**64 - 10, 20)
    same[:] = (0, size)
    return {"outside": outside, "huge": huge, "wrapped": wrapped, "all of it": same}


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("lie", ["outside", "huge", "wrapped", "all of it"])
@pytest.mark.parametrize("window", [slice(None), slice(0, 3)])
def test_an_index_of_a_shard_that_lies_is_ours(lie: str, window: slice, tmp_path: Path) -> None:
    shard = sharded(tmp_path / "a.zarr")
    content = shard.read_bytes()
    index = np.frombuffer(content[-(16 * 16 + 4) : -4], "<u8").reshape(16, 2)
    raw = lies(index, len(content))[lie].tobytes()
    shard.write_bytes(content[: -(16 * 16 + 4)] + raw + google_crc32c.value(raw).to_bytes(4, "little"))
    with pytest.raises(ProductBroken):
        guard(zarr.open_array(tmp_path / "a.zarr", mode="r"), "here")[window, window]


def test_a_bomb_inside_a_shard_is_seen(tmp_path: Path) -> None:
    shard = sharded(tmp_path / "a.zarr")
    bomb = zstd(bytes(LARGE + SLACK))
    raw = np.full((16, 2), 2**64 - 1, "<u8")
    raw[0] = (0, len(bomb))
    shard.write_bytes(bomb + raw.tobytes() + google_crc32c.value(raw.tobytes()).to_bytes(4, "little"))
    with pytest.raises(ProductBroken, match="room for"):
        guard(zarr.open_array(tmp_path / "a.zarr", mode="r"), "here")[:]


@pytest.mark.parametrize(("zarr_format", "shards"), [(2, False), (3, False), (3, True)])
def test_a_product_with_a_bomb_is_named_before_the_converter_sees_it(
    zarr_format: Any, shards: bool, tmp_path: Path
) -> None:
    store = write_terrain(tmp_path / "dem.zarr", zarr_format=zarr_format, sharded=shards)
    chunk = next(path for path in (store / "dem" / "height").rglob("*") if path.is_file() and path.name[0] in "01")
    bomb = ENCODED["zstd, no size" if zarr_format == 3 else "blosc"][1](bytes(60_000_000))
    index = np.full((4, 2), 2**64 - 1, "<u8")
    index[0] = (0, len(bomb))
    checksum = google_crc32c.value(index.tobytes()).to_bytes(4, "little")
    chunk.write_bytes(bomb + (index.tobytes() + checksum if shards else b""))
    product = open_product(store)
    [array] = [each for each in product.groups["/dem"].arrays if each.name == "height"]
    [flaw] = flaws(array, store)
    assert str(store / flaw.key) == str(chunk)
    assert "60.0 MB" in str(flaw)


def test_a_run_over_a_bomb_ends_with_its_name(tmp_path: Path) -> None:
    store = write_terrain(tmp_path / "dem.zarr")
    chunk = store / "dem" / "height" / "c" / "1" / "1"
    chunk.write_bytes(zstd(bytes(60_000_000)))
    done = bounded("-m", "geozarr_runner", "convert", store, tmp_path / "out.zarr", megabytes=600, seconds=120)
    assert done.code == 3
    [error] = [event for event in map(json.loads, done.stdout.splitlines()) if event["type"] == "error"]
    assert (error["code"], error["given"]) == ("product-broken", str(chunk))
    assert "60.0 MB" in error["message"]
    assert not (tmp_path / "out.zarr").exists()
