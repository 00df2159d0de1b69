"""Tables as Arrow IPC files of one uncompressed record batch, hashed while they are written.

Reading is zero-copy from the mapped file. A table from anyone is safe to open: a compressed buffer
(which could claim any size), a second batch or a dictionary is refused before it is decoded, and
offsets and text are validated before a value is used.
"""

from __future__ import annotations

import io
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cache_schema.codecs.files import HashedFile
from cache_schema.errors import TapeError

MAX_LIST_VALUES = (1 << 31) - 1
"""Values a column of lists can hold in one batch: its offsets are 32 bits."""

_MAGIC = b"ARROW1\0\0"
_HEADER_FIELD = 2
_COMPRESSION_FIELD = 3


class _Sink(io.RawIOBase):
    """What Arrow writes to: a hashed file."""

    def __init__(self, file: HashedFile) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(memoryview(data))


def to_table(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows as a table; a list of numbers may be a NumPy array or ``None``."""
    columns = [_column(field.type, [row[field.name] for row in rows]) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(kind: pa.DataType, values: list[Any]) -> pa.Array:
    if not (pa.types.is_list(kind) and pa.types.is_primitive(kind.value_type)):
        return pa.array(values, type=kind)
    item = kind.value_type.to_pandas_dtype()
    arrays = [np.empty(0, item) if value is None else np.asarray(value, item) for value in values]
    offsets = np.zeros(len(arrays) + 1, dtype=np.int32)
    lengths = [len(array) for array in arrays]
    if sum(lengths) > MAX_LIST_VALUES:
        raise ValueError(f"{sum(lengths)} values in one column; commit smaller shards")
    np.cumsum(lengths, out=offsets[1:])
    flat = np.concatenate(arrays) if arrays else np.empty(0, item)
    missing = pa.array([value is None for value in values], type=pa.bool_())
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(flat, type=kind.value_type), type=kind, mask=missing
    )


class MappedFile:
    """A file mapped for reading, which can tell whether it is still whole.

    Attributes:
        path: the file.
        content: its bytes, mapped; whoever uses them after a while asks ``check`` first.

    Raises:
        TapeError: it cannot be opened, or is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise TapeError(f"{path}: cannot be mapped: {error}") from error
        self.content = pa.py_buffer(self._mapped)
        self._size = len(self._mapped)

    def check(self) -> None:
        """Refuse a file that was cut since: a page that is gone would end the process (1 us).

        Raises:
            TapeError: it is shorter than when it was opened.
        """
        if (missing := self._size - self._mapped.size()) > 0:
            raise TapeError(f"{self.path}: was cut while open, {missing} bytes too early")


def write_table(path: Path, table: pa.Table) -> dict[str, Any]:
    """Write a table as one record batch; return the file's record (bytes, checksum).

    Raises:
        ValueError: a column is too long for one batch (2^31 values of a list).
    """
    # combine_chunks copies a column that is one chunk already.
    columns = [c.chunk(0) if c.num_chunks == 1 else c.combine_chunks() for c in table.columns]
    batch = pa.record_batch(columns, schema=table.schema)
    with HashedFile(path) as file:
        with pa.ipc.new_file(pa.PythonFile(_Sink(file), mode="w"), table.schema) as writer:
            writer.write_batch(batch)
        return file.close()


def read_table(
    source: Path | MappedFile, *schemas: pa.Schema, num_rows: int | None = None
) -> pa.Table:
    """Map a table.

    Args:
        source: the file, its checksum already compared.
        schemas: the columns it must have, all those of one of them.
        num_rows: the rows it must have, if known.

    Raises:
        TapeError: it is not one uncompressed record batch of such a schema, or its offsets, text or
            number of rows are wrong.
    """
    file = source if isinstance(source, MappedFile) else MappedFile(source)
    path = file.path
    try:
        file.check()
        batch = _read_batch(file.content)
        batch.validate(full=True)
        schema = next((known for known in schemas if batch.schema.equals(known)), None)
        if schema is None:
            raise TapeError(
                f"{path}: columns differ from the format's: expected {_columns(schemas[0])}, "
                f"got {_columns(batch.schema)}"
            )
    except (pa.ArrowException, ValueError, OSError, struct.error) as error:
        raise TapeError(f"{path}: not a table of a tape ({error})") from error
    for name, column in zip(schema.names, batch.columns, strict=True):
        _refuse_nulls(column, schema.field(name), f"{path}: column {name!r}")
    if num_rows is not None and batch.num_rows != num_rows:
        raise TapeError(f"{path}: {batch.num_rows} rows, its manifest line says {num_rows}")
    return pa.Table.from_batches([batch])


def _refuse_nulls(array: pa.Array, field: pa.Field, where: str) -> None:
    """Refuse nulls where the schema has none, inside lists too."""
    if array.null_count and not field.nullable:
        raise TapeError(f"{where} has nulls")
    if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
        _refuse_nulls(array.values, field.type.value_field, where)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _read_batch(content: pa.Buffer) -> pa.RecordBatch:
    """Read the stream inside the file: its schema message, its one batch, its end."""
    if content.slice(0, len(_MAGIC)).to_pybytes() != _MAGIC:
        raise ValueError("no Arrow file")
    reader = pa.ipc.MessageReader.open_stream(content.slice(len(_MAGIC)))
    first = _next_message(reader)
    if first.type != "schema":
        raise ValueError(f"expected a schema first, got a {first.type}")
    schema = pa.ipc.read_schema(first)
    message = _next_message(reader)
    if message.type != "record batch":
        raise ValueError(f"expected a record batch, got a {message.type}")
    if _is_compressed(message.metadata.to_pybytes()):
        raise ValueError("its buffers are compressed, which the format forbids")
    batch = pa.ipc.read_record_batch(message, schema)
    try:
        extra = reader.read_next_message()
    except StopIteration:
        return batch
    raise ValueError(f"expected one record batch, got a {extra.type} after it")


def _next_message(reader: Any) -> Any:
    try:
        return reader.read_next_message()
    except StopIteration:
        raise ValueError("it ends before its record batch") from None


def _is_compressed(message: bytes) -> bool:
    """Whether a record batch's flatbuffer names a compression."""
    table = struct.unpack_from("<I", message, 0)[0]
    header_at = _flatbuffer_field(message, table, _HEADER_FIELD)
    if header_at == 0:
        raise ValueError("a message without a header")
    header = header_at + struct.unpack_from("<I", message, header_at)[0]
    return _flatbuffer_field(message, header, _COMPRESSION_FIELD) != 0


def _flatbuffer_field(content: bytes, table: int, field: int) -> int:
    """Return where a field of a flatbuffer table lies, 0 if it is absent."""
    vtable = table - struct.unpack_from("<i", content, table)[0]
    if vtable < 0:
        raise ValueError("a flatbuffer that points before its start")
    size = struct.unpack_from("<H", content, vtable)[0]
    entry = 4 + 2 * field
    if entry + 2 > size:
        return 0
    offset: int = struct.unpack_from("<H", content, vtable + entry)[0]
    return table + offset if offset else 0
