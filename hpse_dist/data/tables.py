"""Reading a collection's parquet files: whole, or some columns, which is much less."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hpse_dist.data.shards import FRAME_SCHEMA, REJECT_SCHEMA
from hpse_dist.safety import one_line

PAIR_SCHEMA = pa.schema(
    [
        ("a", pa.int64()),
        ("b", pa.int64()),
        ("kind", pa.int8()),
        ("angle_deg", pa.float32()),
        ("time_gap_s", pa.float32()),
        ("pose_distance", pa.float32()),
        ("overlap", pa.float32()),
        ("weight", pa.float32()),
        ("difficulty", pa.float32()),
    ]
)
_TABLES = {  # and the columns that nothing goes without
    "frames.parquet": (
        FRAME_SCHEMA,
        ("sample_id", "shard", "row", "subject", "sequence", "track", "split"),
    ),
    "pairs.parquet": (PAIR_SCHEMA, ("a", "b", "kind", "weight")),
    "rejects.parquet": (REJECT_SCHEMA, ("source", "reason")),
}
_KINDS: tuple[Callable[[pa.DataType], bool], ...] = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean),
    *(pa.types.is_string, pa.types.is_binary, pa.types.is_list),
)


def read_table(
    path: Path, columns: Sequence[str] | None = None, sha256: str | None = None
) -> pa.Table | None:
    """A table, or those of the columns that it has, texts as dictionaries; None where the file is
    not the one of that hash. ValueError where it is no table."""
    # opened once: by its path pyarrow would open it twice, perhaps another file the second time
    with path.open("rb") as stream:
        if sha256 is not None:
            if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                return None
            stream.seek(0)
        try:
            if columns is None:
                return pq.read_table(stream)
            schema = pq.ParquetFile(stream).schema_arrow
            known = [name for name in columns if name in schema.names]
            texts = [name for name in known if pa.types.is_string(schema.field(name).type)]
            return pq.ParquetFile(stream, read_dictionary=texts).read(known)
        except (pa.ArrowException, LookupError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk, not of what is on it
            words = one_line(str(error))[:200]
            raise ValueError(f"{path}: not readable as a table ({words})") from None


def checked(
    path: Path, table: pa.Table, columns: Sequence[str] | None, num_shards: int
) -> pa.Table:
    """The table, if it is one that a collection has under that name, or `columns` of one."""
    schema, needed = _TABLES.get(path.name, (pa.schema([]), ()))
    wrong = _differences(table, schema, [n for n in needed if columns is None or n in columns])
    if not wrong and "shard" in table.column_names and len(table):
        ends = pc.min_max(table["shard"]).as_py()
        # without any shard they are tables alone, to be mined
        if ends["min"] < 0 or (num_shards and ends["max"] >= num_shards):
            wrong = [f"shards {ends['min']} to {ends['max']} of {num_shards}"]
    if wrong:
        raise ValueError(
            f"{path}: not the table of a collection, it has {', '.join(wrong)[:300]}; prepare it "
            "again"
        )
    return table


def _differences(table: pa.Table, schema: pa.Schema, needed: Sequence[str]) -> list[str]:
    """What is not as a schema has it: columns `needed` that are missing or come twice, others'
    kinds, whole numbers that are not known in every row."""
    names = table.column_names
    wrong = [f"no column {name}" for name in needed if name not in names]
    wrong += [f"two columns {name}" for name in sorted({*names}) if names.count(name) > 1]
    if wrong:
        return wrong
    for name in sorted({*names} & {*schema.names}):
        wanted, found = schema.field(name).type, table.schema.field(name).type
        if pa.types.is_dictionary(found):
            found = found.value_type
        if not any(kind(wanted) and kind(found) for kind in _KINDS):
            wrong.append(f"{found} in place of {wanted} in column {name}")
        elif pa.types.is_integer(wanted) and table[name].null_count and name in needed:
            wrong.append(f"rows without {name}")
    return wrong
