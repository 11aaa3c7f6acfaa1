"""Collections that lie on a shared or object store: read through local copies, never written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpse_dist.data.collection import SCHEMA_VERSION, Collection
from hpse_dist.data.publish import check_manifest
from hpse_dist.data.stage import Copy, Stage, read_small, url_of
from hpse_dist.data.store import Progress
from hpse_dist.safety import parsed_json


def open_collection(place: Path | str, stage: Stage) -> Collection:
    """The collection in a folder, or at a URL that fsspec reads: s3://, gs://, file://, ..."""
    url = url_of(place)
    return Collection.open(place) if url is None else RemoteCollection.at(url, stage)


class RemoteCollection(Collection):
    """A collection whose files are copied to this machine when they are asked for."""

    def __init__(self, url: str, manifest: dict[str, Any], stage: Stage) -> None:
        super().__init__(Path(url), manifest)
        self.url, self.stage = url, stage

    @classmethod
    def at(cls, url: str, stage: Stage) -> RemoteCollection:
        """Reads the manifest; ValueError where there is none."""
        url = url.rstrip("/")
        place = f"{url}/manifest.json"
        data = read_small(place)
        try:
            manifest = parsed_json(data)
        except ValueError as error:
            raise ValueError(f"{place}: cannot be read: {error}") from None
        check_manifest(manifest, place, SCHEMA_VERSION)
        return cls(url, manifest, stage)

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    def hold(self, name: str) -> Copy:
        """A file's local copy, made now if it is not there, until it is closed."""
        entry = self.manifest["files"].get(name)
        if entry is None or "/" in name:
            raise ValueError(f"{self.url}: no file {name} in its manifest")
        return self.stage.hold(f"{self.url}/{name}", entry["bytes"], entry["sha256"])

    def shard_copy_bytes(self, number: int) -> int:
        size: int = self.manifest["files"][self.manifest["shards"][number]]["bytes"]
        return size

    def largest_shards(self, count: int) -> int:
        """Bytes of so many of the largest shards."""
        sizes = [self.manifest["files"][name]["bytes"] for name in self.manifest["shards"]]
        return sum(sorted(sizes)[-count:])

    @property
    def largest_table(self) -> int:
        """Bytes of the largest of its tables."""
        return max(self._tables(), default=0)

    @property
    def copied_bytes(self) -> int:
        """Of all that is ever copied: shards and tables."""
        return self.largest_shards(len(self.manifest["shards"])) + sum(self._tables())

    def _tables(self) -> list[int]:
        files = self.manifest["files"].items()
        return [entry["bytes"] for name, entry in files if name.endswith(".parquet")]

    def verify(self, progress: Progress | None = None) -> list[str]:
        raise ValueError(f"{self.url}: a collection is verified where its disk is")

    def update_file(self, name: str, write: Callable[[Path], None], **manifest: Any) -> None:
        raise ValueError(f"{self.url}: a collection is changed where its disk is, not from afar")

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "url": self.url, "stage": self.stage}
