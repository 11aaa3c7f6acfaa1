"""From a buffer's contents to the fields that were asked for: mirrored, augmented."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hpse_dist.data.augment import AugmentConfig, augment
from hpse_dist.data.collection import Collection
from hpse_dist.data.depth_order import FIELDS as DEPTH_FIELDS
from hpse_dist.data.depth_order import DepthOrder, DepthOrderConfig, basis
from hpse_dist.data.items import FLAGS, Items
from hpse_dist.data.mirror import Mirror, chosen, mirror_of, mirrored
from hpse_dist.data.mixing import provided
from hpse_dist.draws import uniform
from hpse_dist.fields import FIELDS, Batch, missing


class Finish:
    """What happens to a buffer's contents on the device: augmented, only what is needed."""

    def __init__(
        self,
        sources: Sequence[Items],
        needs: Sequence[str],
        config: AugmentConfig,
        seed: int,
        train: bool,
        image_px: int,
        patch_px: int,
        device: torch.device,
        depth_order: DepthOrderConfig | None = None,
        beside: Sequence[Collection] = (),
    ) -> None:
        provides = provided(sources, beside)
        lacking = missing([name for name in needs if name != "valid"], provides)
        if lacking:
            folders = ", ".join(str(items.source.collection.folder) for items in sources)
            raise ValueError(
                f"{folders}: no field {', '.join(lacking)}; there are {', '.join(provides)}"
            )
        self._needs, self._config, self._seed, self._train = tuple(needs), config, seed, train
        self._px, self._patch_px, self.device = image_px, patch_px, device
        made = {"image", "image_ref", "sample_id", "epoch", "subject", "pair_kind"}
        made |= {"pair_weight", *FLAGS, "valid"}
        self.labels = [name for name in FIELDS if name in needs and name not in made]
        self._depth_order: DepthOrder | None = None
        if {*needs} & {*DEPTH_FIELDS}:
            self._make_depth_order(sources, depth_order)
        if train and config.rotation_deg > 0:
            self._read_for_rotation(provides)
        self._mirror: Mirror | None = None
        if train and config.flip > 0:
            self._read_for_flip(sources, provides)

    def _make_depth_order(self, sources: Sequence[Items], config: DepthOrderConfig | None) -> None:
        """Where relations of depth are not stored they are made of the stored joints."""
        collections = [items.source.collection for items in sources]
        if all("depth_pairs" in collection.fields for collection in collections):
            return
        found = basis(collections)
        assert found is not None  # since they are provided
        self._joints, joint_set = found
        self._depth_order = DepthOrder(joint_set, config)
        self.labels = [name for name in self.labels if name not in DEPTH_FIELDS]
        self.labels += [self._joints] if self._joints not in self.labels else []

    def _relations(self, raw: Batch) -> Batch:
        """Relations of depth, of the joints as they are stored: whole and upright."""
        assert self._depth_order is not None
        people = raw[self._joints]
        people = people if people.ndim == 4 else people[:, None]
        if not self._train:
            return self._depth_order(people)
        couples = people.shape[1] * (people.shape[1] - 1) // 2
        draw = uniform(self._seed, "depth_order", raw["epoch"], raw["sample_id"], couples)
        return self._depth_order(people, (draw * people.shape[2]).long())

    def _read_for_rotation(self, provides: Sequence[str]) -> None:
        """Turning the camera needs its matrix, and turning a body its pelvis."""
        placed = bool({"transl", "hand_transl"} & {*self.labels})
        if placed and "joints3d" not in provides:
            raise ValueError(
                "rotation_deg above 0 with a field transl needs joints3d (its first joint is the "
                "root), which these collections do not hold; set rotation_deg to 0"
            )
        extra = ["intrinsics", *(["joints3d"] if placed else [])]
        self.labels += [n for n in extra if n in provides and n not in self.labels]

    def _read_for_flip(self, sources: Sequence[Items], provides: Sequence[str]) -> None:
        """Mirroring a body needs its pelvis, where that is known."""
        if "transl" in self.labels and "joints3d" in provides and "joints3d" not in self.labels:
            self.labels.append("joints3d")
        names = [*self._needs, *self.labels]
        mirror = mirror_of([items.source.collection for items in sources], names)
        self._mirror = mirror.on(self.device)

    def augment(self, raw: Batch) -> Batch:
        """The needed fields of a batch; nothing of it shares memory with `raw`."""
        if self._mirror is not None:
            rows = chosen(raw, self._config.flip, self._seed)
            raw = mirrored(raw, rows, self._mirror)
        fields = augment(
            raw,
            self._config,
            seed=self._seed,
            train=self._train,
            image_px=self._px,
            patch_px=self._patch_px,
        )
        if self._depth_order is not None:
            fields |= self._relations(raw)
        wanted = [*self._needs, *([] if self._train else ["valid"])]
        return {name: _own(fields[name], raw.get(name)) for name in dict.fromkeys(wanted)}


def _own(value: Tensor, source: Tensor | None) -> Tensor:
    """`value`, copied where it is still the buffer's memory."""
    if source is not None and value.data_ptr() == source.data_ptr():
        return value.clone()
    return value
