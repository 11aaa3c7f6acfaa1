"""Which split a frame belongs to."""

from __future__ import annotations

import hashlib

from hpse_dist.data.crops import CollectionConfig, Unusable
from hpse_dist.records import FrameRecord


class Splits:
    """Which split a frame belongs to: by subject, and by sequence where the subject is unknown."""

    def __init__(self, config: CollectionConfig) -> None:
        self._config = config
        self._known: dict[str, str] = {}

    def of(self, record: FrameRecord) -> str:
        """The split; raises Unusable where the source puts a subject in a second one."""
        whole = f"subject {record.subject}" if record.subject else f"sequence {record.sequence}"
        return self.settle(whole, record.split or self._draw(whole), record.split)

    def settle(self, whole: str, split: str, asked: str | None) -> str:
        """`split`, or the one that a subject or sequence is in; Unusable if another is asked."""
        known = self._known.setdefault(whole, split)
        if asked not in (None, known):
            raise Unusable(f"{whole} is in split {known} already, here it is in {asked}")
        return known

    def _draw(self, whole: str) -> str:
        text = f"{self._config.split_seed}:{whole}".encode()
        number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64
        return "val" if number < self._config.val_ratio else "train"
