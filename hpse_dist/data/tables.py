"""Reading a collection's parquet files: whole, or some columns, which is much less."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(
    path: Path, columns: Sequence[str] | None = None, sha256: str | None = None
) -> pa.Table | None:
    """A table, or those of the columns that it has, texts as dictionaries; None where the file is
    not the one of that hash."""
    # opened once: by its path pyarrow would open it twice, perhaps another file the second time
    with path.open("rb") as stream:
        if sha256 is not None:
            if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                return None
            stream.seek(0)
        if columns is None:
            return pq.read_table(stream)
        schema = pq.ParquetFile(stream).schema_arrow
        known = [name for name in columns if name in schema.names]
        texts = [name for name in known if pa.types.is_string(schema.field(name).type)]
        return pq.ParquetFile(stream, read_dictionary=texts).read(known)
