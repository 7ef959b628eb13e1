"""Arrays whose stored objects are looked at before they are decoded.

zarr decodes what it is given: a header that says 1.1 GB makes it allocate 1.1 GB, and an index of a shard that lies
ends in whatever error comes of it. A guarded array looks first, and says `ProductBroken`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from lzma import LZMAError
from typing import TYPE_CHECKING, Any, Self

from zarr.abc.codec import BytesBytesCodec, Codec, CodecPipeline
from zarr.codecs import ShardingCodec
from zarr.codecs._v2 import V2Codec

from geozarr_runner.errors import GeozarrError, ProductBroken
from geozarr_runner.product.chunk_check import check_size, room_for
from geozarr_runner.product.metadata import RUNS_CODE
from geozarr_runner.product.witness import Witness

if TYPE_CHECKING:
    import zarr
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer

# What comes of bytes and metadata that are not what they seem; what a server or a disk refuses is an OSError.
MISREAD = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    LZMAError,
    MemoryError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@contextmanager
def within(place: str, what: str, remedy: str) -> Iterator[None]:
    """Turn what comes of a store that is not what it seems into `ProductBroken`; our own errors pass.

    Parameters
    ----------
    place
        The store, for the error.
    what
        What cannot be done with it.
    """
    try:
        yield
    except GeozarrError:
        raise
    except MISREAD as error:
        raise ProductBroken(f"{what}: {in_one_line(error)}", given=place, remedy=remedy) from error


def in_one_line(error: BaseException) -> str:
    """Return what an error of a library says, as part of a sentence."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def guard(array: zarr.Array[Any], address: str) -> zarr.Array[Any]:
    """Make an array look at its stored objects before it decodes them; returns the same array.

    Parameters
    ----------
    address
        Its store, for the error.

    Raises
    ------
    ProductBroken
        Now, where one of its codecs would run code; later, for each object that cannot be decoded within bounds.
    """
    inner, place = array.async_array, f"{address}/{array.path.strip('/')}"
    pipeline = inner.codec_pipeline
    if not isinstance(pipeline, _Guarded):
        codecs = [_checked(codec, array, place) for codec in pipeline]  # type: ignore[attr-defined]
        # The class is frozen; this is how it sets the field itself.
        guarded = _Guarded(type(pipeline).from_codecs(codecs), place, Witness(array, place))
        object.__setattr__(inner, "codec_pipeline", guarded)
    return array


def _checked(codec: Codec, array: zarr.Array[Any], place: str) -> Codec:
    if isinstance(codec, BytesBytesCodec):
        name, options = _named(codec.to_dict())
        _refuse_code(name, place)
        return _Checked(codec, name, options)
    if isinstance(codec, ShardingCodec):
        return replace(codec, codecs=tuple(_checked(each, array, place) for each in codec.codecs))
    if isinstance(codec, V2Codec):
        for each in (*(codec.filters or ()), codec.compressor):
            if each is not None:
                _refuse_code(str(each.codec_id), place)
        if codec.compressor is None:
            return codec
        itemsize = 0 if array.dtype.hasobject else array.dtype.itemsize
        if itemsize and codec.filters:  # a filter may have widened the values
            itemsize = max(itemsize, 8)
        checked: Any = _CheckedNumcodec(codec.compressor, room_for(array.chunks, itemsize))
        return replace(codec, compressor=checked)
    _refuse_code(_named(codec.to_dict())[0], place)
    return codec


def _named(document: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    options = document.get("configuration")
    return str(document.get("name")).removeprefix("numcodecs."), options if isinstance(options, Mapping) else {}


def _refuse_code(name: str, place: str) -> None:
    if RUNS_CODE.search(name):
        raise ProductBroken(
            f"its codec {name} runs code of whoever wrote it",
            given=place,
            remedy="have it written with another codec by whoever made it",
        )


@dataclass(frozen=True)
class _Checked(BytesBytesCodec):
    """A codec of Zarr v3 that looks first."""

    codec: BytesBytesCodec
    name: str
    options: Mapping[str, Any]

    is_fixed_size = False

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        native = chunk_spec.dtype.to_native_dtype()
        room = room_for(chunk_spec.shape, 0 if native.hasobject or native.kind == "T" else native.itemsize)
        check_size(self.name, memoryview(chunk_data.as_numpy_array()).cast("B"), room, self.options)
        try:
            return await self.codec._decode_single(chunk_data, chunk_spec)
        except OSError as error:  # nothing is read here: it is gzip's or bz2's word for bytes that are not theirs
            raise ValueError(str(error)) from error

    async def _encode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer | None:
        return await self.codec._encode_single(chunk_data, chunk_spec)

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        return replace(self, codec=self.codec.evolve_from_array_spec(array_spec))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        return self.codec.compute_encoded_size(input_byte_length, chunk_spec)

    def to_dict(self) -> dict[str, Any]:
        return self.codec.to_dict()


class _CheckedNumcodec:
    """A compressor of Zarr v2 that looks first."""

    def __init__(self, codec: Any, room: int) -> None:
        self.codec = codec
        self.room = room
        self.codec_id = codec.codec_id

    def encode(self, buf: Any) -> Any:
        """Encode as the codec does."""
        return self.codec.encode(buf)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Decode as the codec does, once that is within bounds."""
        check_size(self.codec_id, memoryview(buf).cast("B"), self.room, self.codec.get_config())
        try:
            return self.codec.decode(buf, out)
        except OSError as error:  # nothing is read here: it is gzip's or bz2's word for bytes that are not theirs
            raise ValueError(str(error)) from error

    def get_config(self) -> Any:
        """Return the codec's own configuration."""
        return self.codec.get_config()


@dataclass(frozen=True)
class _Guarded(CodecPipeline):
    """zarr's own pipeline, whose failures are ours."""

    pipeline: CodecPipeline
    place: str
    witness: Witness

    async def read(self, batch_info: Any, out: Any, drop_axes: tuple[int, ...] = ()) -> Any:
        batch = list(batch_info)
        try:
            answer = await self.pipeline.read(batch, out, drop_axes)
            await self.witness.check([getter for getter, *_ in batch])
            return answer
        except ExceptionGroup as errors:  # several were read at once
            first: BaseException = errors
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            if not isinstance(first, MISREAD):
                raise first from None
            raise self._broken(first) from first
        except MISREAD as error:
            raise self._broken(error) from error

    def _broken(self, error: BaseException) -> ProductBroken:
        return ProductBroken(
            f"a stored chunk cannot be decoded: {in_one_line(error)}",
            given=self.place,
            remedy="have it written or fetched again; nothing else will help",
        )

    async def write(self, batch_info: Any, value: Any, drop_axes: tuple[int, ...] = ()) -> None:
        await self.pipeline.write(batch_info, value, drop_axes)

    async def decode(self, chunk_bytes_and_specs: Iterable[Any]) -> Any:
        return await self.pipeline.decode(chunk_bytes_and_specs)

    async def encode(self, chunk_arrays_and_specs: Iterable[Any]) -> Any:
        return await self.pipeline.encode(chunk_arrays_and_specs)

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        return replace(self, pipeline=self.pipeline.evolve_from_array_spec(array_spec))

    @classmethod
    def from_codecs(cls, codecs: Iterable[Codec]) -> Self:
        raise NotImplementedError("a guarded pipeline is made of another one")

    @property
    def supports_partial_decode(self) -> bool:
        return self.pipeline.supports_partial_decode

    @property
    def supports_partial_encode(self) -> bool:
        return self.pipeline.supports_partial_encode

    def validate(self, *, shape: Any, dtype: Any, chunk_grid: Any) -> None:
        self.pipeline.validate(shape=shape, dtype=dtype, chunk_grid=chunk_grid)

    def compute_encoded_size(self, byte_length: int, array_spec: ArraySpec) -> int:
        return self.pipeline.compute_encoded_size(byte_length, array_spec)
