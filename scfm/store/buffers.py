"""What compressed buffers of an Arrow stream say they unpack to, before any is unpacked.

The layout is that of the Arrow columnar format (Message.fbs, Schema.fbs) in FlatBuffers: a table begins with the signed
distance to its list of field offsets; a reference is an unsigned distance from where it stands.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

#: Bytes that a message may unpack to, whatever its size; and for each of its bytes, above that.
LARGE, MAX_RATIO = 1 << 28, 200
#: Numbers of fields in tables of the format, and the type of a message that wraps a batch in a dictionary.
_HEADER_TYPE, _HEADER = 1, 2
_BUFFERS, _COMPRESSION = 2, 3
_DICTIONARY, _BATCH, _DATA = 2, 3, 1


def require_small_buffers(file: Path) -> None:
    """Refuse an Arrow stream whose compressed buffers stand for more than memory holds; without any, nothing is read.

    Args:
        file: the stream.

    Raises:
        ValueError: naming what it unpacks to.
        pyarrow.ArrowException: it is no Arrow stream.
    """
    with pa.memory_map(os.fsencode(file)) as source:
        for message in pa.ipc.MessageReader.open_stream(source):
            body = message.body
            if message.type not in ("record batch", "dictionary") or body is None:
                continue
            try:
                size = sum(_unpacked_sizes(memoryview(message.metadata), memoryview(body)))
            except (struct.error, RecursionError) as error:
                raise ValueError(f"a message of it is damaged ({error})") from error
            if size > max(LARGE, MAX_RATIO * body.size):
                raise ValueError(f"its {body.size / 1e6:,.1f} MB claim to unpack to {size / 1e6:,.0f} MB")


def _unpacked_sizes(metadata: memoryview, body: memoryview) -> Iterator[int]:
    """What each compressed buffer says that it unpacks to; nothing where the message is not compressed."""
    table = _follow(metadata, 0)
    kind = _field(metadata, table, _HEADER_TYPE)
    header = _field(metadata, table, _HEADER)
    if kind is None or header is None:
        return
    batch = _follow(metadata, header)
    if metadata[kind] == _DICTIONARY:
        data = _field(metadata, batch, _DATA)
        if data is None:
            return
        batch = _follow(metadata, data)
    elif metadata[kind] != _BATCH:
        return
    compression, buffers = _field(metadata, batch, _COMPRESSION), _field(metadata, batch, _BUFFERS)
    if compression is None or buffers is None:
        return
    vector = _follow(metadata, buffers)
    (n,) = struct.unpack_from("<I", metadata, vector)
    for i in range(n):
        offset, length = struct.unpack_from("<qq", metadata, vector + 4 + 16 * i)
        if length >= 8:  # -1 stands for a buffer that is stored as it is
            yield max(0, struct.unpack_from("<q", body, offset)[0])


def _follow(metadata: memoryview, place: int) -> int:
    """Where a reference leads."""
    return place + int(struct.unpack_from("<I", metadata, place)[0])


def _field(metadata: memoryview, table: int, number: int) -> int | None:
    """Where a field of a table stands; None where it is left out."""
    fields = table - int(struct.unpack_from("<i", metadata, table)[0])
    if fields < 0:
        raise struct.error("a table without fields")
    (size,) = struct.unpack_from("<H", metadata, fields)
    if 4 + 2 * number >= size:
        return None
    (offset,) = struct.unpack_from("<H", metadata, fields + 4 + 2 * number)
    return table + offset if offset else None
