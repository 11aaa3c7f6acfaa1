"""Part-guided synthesis: 3D pose out of unlabelled pairs of pictures, through a puppet.

After Kundu et al., "Self-Supervised 3D Human Pose Estimation via Part Guided Novel Image Synthesis"
(CVPR 2020). Two pictures of a person in other poses; each one's 3D pose is guessed, bridged by a
puppet to maps of parts, the parts' appearance is pooled in one and painted at the places of the
other, which must come out. Priors are the skeleton (bone ratios, limits of joints), one puppet, and
3D poses that belong to no picture: of those, pictures are made whose pose is known.

What is known of the paper leaves losses and weights open. Here pictures are compared on a pyramid,
not by a network trained on labels; self-made pictures are of paper dolls, coloured, and from the
end of the warm-up on the painter's as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpse_dist.body.kinematics import place_limbs
from hpse_dist.constants import constant
from hpse_dist.draws import uniform
from hpse_dist.fields import Batch
from hpse_dist.geometry.rotations import matrix_to_six_d, six_d_to_matrix
from hpse_dist.metrics.pose3d import mpjpe, pa_mpjpe
from hpse_dist.models.batch_norm import unfollowed
from hpse_dist.models.encoder import Encoder
from hpse_dist.models.heads import JointHead
from hpse_dist.models.synthesis import Appearance, Painter
from hpse_dist.objectives.base import PANEL_ROWS, Objective, sheet, to_rgb
from hpse_dist.objectives.dolls import Dolls
from hpse_dist.objectives.part_panels import Columns, pose_columns, swap_columns
from hpse_dist.objectives.progress import Progress
from hpse_dist.objectives.puppet_pictures import puppet_pictures
from hpse_dist.objectives.unpaired import SYNTHETIC, Posed, Unpaired

_FACING = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)  # upright, facing the camera: half a turn about x
_CLOSEST = 0.45  # one over the camera's least distance, per metre
_LEVELS = 3  # of the pyramid on which pictures are compared
_SURE = 0.8  # a cell that is this much one part's teaches the part decoder
NUM_JOINTS = 24


class Guess(NamedTuple):
    """The numbers of which a person is made."""

    limbs: Tensor
    """(B, 23, 3) before they are made unit."""
    turn: Tensor
    """(B, 6), the trunk's rotation."""
    places: Tensor
    """(B, 24, 2) in 0..1 of the crop, where joints were looked for."""


@dataclass(frozen=True)
class PartSynthesisConfig:
    """3D pose, appearance and parts from pairs of one person's pictures."""

    poses: str = SYNTHETIC
    """Unpaired 3D poses: AMASS's files or others with smplx's body_pose (an .npz, or a folder of
    them); "synthetic" for those of the synthetic people; "limits" for whatever joints can do."""
    body: str = "free"
    """Whose bone lengths and limb shapes the puppet has: "free", or a body model's file."""
    map_px: int = 56
    """Cells along a side of the maps of parts; the picture's side over a power of two."""
    dim: int = 64
    """Channels of an appearance code and of the decoders."""
    head_dim: int = 512
    """Channels of the pose head."""
    extent: tuple[float, float] = (0.65, 0.92)
    """Longer side of a person over the crop's, in self-made pictures: drawn uniformly."""
    shift: float = 0.08
    """Largest shift of a person from the crop's middle in self-made pictures."""
    distance: tuple[float, float] = (2.3, 6.3)
    """Of the camera from a person in self-made pictures, metres: the nearer ones more often."""
    warmup: float = 0.3
    """Share of the run in which only drawn self-made pictures teach the pose."""
    made: int = 4
    """Self-made pictures to each pair: they are cheap, and the pose is learned from them."""
    painted_ratio: float = 0.5
    """Share of pairs whose first self-made picture is the painter's, after the warm-up."""
    limb_weight: float = 1.0
    """Squared error of limb vectors, in the trunk's frame, on self-made pictures."""
    turn_weight: float = 1.0
    """Squared error of the trunk's rotation, as six numbers, on self-made pictures."""
    joints_weight: float = 3.0
    """L1 of joints in the trunk's frame, metres, on self-made pictures."""
    place_weight: float = 3.0
    """L1 of projected joints on self-made pictures, shares of the crop."""
    found_weight: float = 3.0
    """L1 of the places where joints are looked for, shares of the crop, on self-made pictures."""
    picture_weight: float = 1.0
    """L1 of the synthesised picture, in units of the loader's normalisation."""
    part_weight: float = 0.1
    """Cross-entropy of the part decoder, nats."""
    appearance_weight: float = 0.1
    """L1 between the codes painted and the codes found in what was painted."""
    labels_weight: float = 3.0
    """L1 of joints relative to the pelvis, metres, where labels are used."""
    limit_weight: float = 1.0
    """How far limbs bend beyond their limits on real pictures, a cosine."""
    label_fraction: float = 0.0
    """Share of the pictures, fixed and nested, whose 3D joints teach as well."""
    scored: bool = True
    """Whether collections have joints3d to measure the pose by; false for unlabelled data."""

    def __post_init__(self) -> None:
        for name in ("map_px", "dim", "head_dim", "made"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.dim % 8:
            raise ValueError(f"dim must be a multiple of 8, found {self.dim}")
        for name in ("warmup", "painted_ratio", "label_fraction", "shift"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, found {getattr(self, name)}")
        if not 1.5 <= self.distance[0] <= self.distance[1]:
            raise ValueError(f"distance must be two rising numbers from 1.5, found {self.distance}")
        if not 0.1 <= self.extent[0] <= self.extent[1] <= 2:
            raise ValueError(f"extent must be two rising numbers in 0.1..2, found {self.extent}")
        weights = {k: v for k, v in vars(self).items() if k.endswith("_weight")}
        if min(weights.values()) < 0 or not self.limb_weight + self.joints_weight:
            raise ValueError("weights must be 0 or more, limb_weight or joints_weight above it")

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        needs = ("image", "image_ref", "sample_id", "epoch")
        return (*needs, "joints3d") if self.scored or self.label_fraction else needs


class PartSynthesis(Objective):
    """Encoder and pose head; skeleton, puppet and unpaired poses; appearance and painter."""

    Config = PartSynthesisConfig
    config: PartSynthesisConfig
    progress: Tensor

    def __init__(self, config: PartSynthesisConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        steps = _halvings(encoder.image_px, config.map_px)
        self.unpaired = Unpaired(
            config.poses, config.body, config.extent, config.shift, config.distance
        )
        self.dolls = Dolls(self.unpaired)
        width = config.head_dim
        self.head = JointHead(encoder.dim, width, NUM_JOINTS)
        self.to_limbs = nn.Linear(width, 3 * len(self.unpaired.lengths))
        self.to_turn = nn.Linear(width, 6)
        self.to_camera = nn.Linear(width, 4)
        for layer in (self.to_limbs, self.to_turn, self.to_camera):
            nn.init.xavier_uniform_(layer.weight, gain=0.01)  # starts at the body at rest
            nn.init.zeros_(layer.bias)
        self.appearance = Appearance(config.dim, steps)
        self.painter = Painter(config.dim, self.unpaired.puppet.num_parts, steps)
        self.register_buffer("progress", torch.zeros(()))
        self._progress = Progress()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` and its parts before weighting, each a mean over rows."""
        target, source, ids = batch["image"], batch["image_ref"], batch["sample_id"]
        count, warming = len(ids), self._progress.of(self.progress) < self.config.warmup
        seen = self.pose(torch.cat((target, source)))
        maps = self.unpaired.parts(seen[1], self.config.map_px)
        there, here = (maps.detach() if warming else maps).split(count)
        codes, behind = self.appearance(source, here)
        picture, logits = self.painter(codes, behind, there)
        made, chosen, again = self._self_made(batch, codes, behind, warming)
        parts = self._pose_errors(made, chosen) | {
            "picture": pyramid_error(picture, target),
            "part": part_error(logits, there),
            "appearance": (again - codes.detach()).abs().mean((1, 2)),
            "limit": self.unpaired.excess(seen[1]).mean(1),
        }
        if self.config.label_fraction:
            parts["labels"] = self._label_errors(batch, seen[1].rows(slice(0, count)))
        terms = [getattr(self.config, f"{k}_weight") * value.mean() for k, value in parts.items()]
        logged = {f"loss_{name}": value.mean().detach() for name, value in parts.items()}
        return {"loss": torch.stack(terms).sum()} | logged

    def after_step(self, progress: float) -> None:
        """The warm-up is a share of the run."""
        self._progress.move(self.progress, progress)

    def pose(self, image: Tensor) -> tuple[Guess, Posed]:
        """image (B, 3, H, W) -> the numbers predicted, and the person that they make."""
        token, places = self.head(self.encoder(image), self.encoder.grid(image))
        with torch.autocast(image.device.type, enabled=False):
            token = token.float()
            limbs = self.to_limbs(token).unflatten(1, (-1, 3)) + self.unpaired.rest
            turn = self.to_turn(token) + constant(_FACING, token.device)
            camera = self.to_camera(token)
            local = F.normalize(limbs, dim=-1, eps=1e-4)
            scale, pelvis = 0.45 * camera[:, 0].exp(), 0.5 + camera[:, 1:3]
            closeness = _CLOSEST * camera[:, 3].sigmoid()
            seen = self.unpaired.seen(local, six_d_to_matrix(turn), scale, pelvis, closeness)
        return Guess(limbs, turn, places), seen

    def paint(self, source: Tensor, source_pose: Posed, pose: Posed) -> Tensor:
        """The person of `source` in another pose: (B, 3, H, W) normalised."""
        px = self.config.map_px
        codes, behind = self.appearance(source, self.unpaired.parts(source_pose, px))
        picture: Tensor = self.painter(codes, behind, self.unpaired.parts(pose, px))[0]
        return picture

    @torch.no_grad()
    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        """In mm: pa_mpjpe and mpjpe of the pose, with no label seen (unless label_fraction is above
        0); pa_mpjpe_expected, of limbs as predicted: short where they may point anywhere, as in a
        mean of poses; pa_mpjpe_mean, of the unpaired poses' mean; pa_mpjpe_made, of self-made
        pictures: what is between is the way from made to real ones. picture_error: the synthesis.
        """
        target, source = batch["image"], batch["image_ref"]
        found, seen = self.pose(target)
        other = self.pose(source)[1]
        made, chosen = self._drawn(batch | {"epoch": torch.zeros_like(batch["epoch"])}, 1)
        guess, every = self.pose(made)[1], torch.ones(chosen.joints.shape[:2]).bool()
        figures = {
            "picture_error": pyramid_error(self.paint(source, other, seen), target),
            "pa_mpjpe_made": pa_mpjpe(guess.joints, chosen.joints, every.to(target.device)),
        }
        if "joints3d" in batch:
            true, known = batch["joints3d"][..., :3], batch["joints3d"][..., 3] > 0
            mean = self.unpaired.mean_joints.expand_as(true)
            figures |= {
                "pa_mpjpe": pa_mpjpe(seen.joints, true, known),
                "pa_mpjpe_expected": pa_mpjpe(
                    place_limbs(found.limbs, self.unpaired.lengths), true, known
                ),
                "mpjpe": mpjpe(seen.joints, true, known),
                "pa_mpjpe_mean": pa_mpjpe(mean, true, known),
            }
        return figures

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """pose_gain: by how many percent pa_mpjpe is below the mean pose's."""
        mine, mean = means.get("pa_mpjpe", math.nan), means.get("pa_mpjpe_mean", math.nan)
        return {"pose_gain": 100.0 * (1.0 - mine / mean)} if math.isfinite(mine / mean) else {}

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """Poses with the puppet; appearance and pose exchanged; what self-made pictures are."""
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        batch["epoch"] = torch.zeros_like(batch["sample_id"])
        target, source = batch["image"], batch["image_ref"]
        seen, other = self.pose(target)[1], self.pose(source)[1]
        poses = pose_columns(self.unpaired, target, seen, batch.get("joints3d"))
        swaps: Columns = {"source": list(to_rgb(source)), "target": list(to_rgb(target))}
        swaps["synthesised"] = list(to_rgb(self.paint(source, other, seen)))
        swaps |= swap_columns(self.paint, source, other)
        drawn, chosen = self._drawn(batch, 1)
        made: Columns = {"self-made": list(to_rgb(drawn))}
        made["painted"] = list(to_rgb(self.paint(source, other, chosen)))
        made |= pose_columns(self.unpaired, drawn, self.pose(drawn)[1], None)
        titled = {"poses": poses, "synthesis": swaps, "self_made": made}
        return {
            name: sheet(list(zip(*shown.values(), strict=True)), list(shown), [""] * len(target))
            for name, shown in titled.items()
        }

    def _drawn(self, batch: Batch, made: int) -> tuple[Tensor, Posed]:
        """Pictures of dolls in unpaired poses, `made` to a row in turn, and the poses."""
        around = batch["image_ref"].repeat_interleave(made, dim=0)
        epoch = batch["epoch"].repeat_interleave(made)
        ids = batch["sample_id"][:, None] * self.config.made
        ids = (ids + torch.arange(made, device=ids.device)).flatten()
        with torch.autocast(around.device.type, enabled=False):
            chosen = self.unpaired.draw(self.seed, epoch, ids)
            return puppet_pictures(self.dolls, chosen, around, self.seed, epoch, ids), chosen

    def _self_made(
        self, batch: Batch, codes: Tensor, behind: Tensor, warming: bool
    ) -> tuple[Tensor, Posed, Tensor]:
        """Pictures of unpaired poses without a gradient, `made` to a row one after the other, their
        poses, and the appearance found again in the painted ones, one to a row (B, L, C)."""
        every = self.config.made
        pictures, chosen = self._drawn(batch, every)
        maps = self.unpaired.parts(chosen.rows(slice(None, None, every)), self.config.map_px)
        painted = self.painter(codes.detach(), behind.detach(), maps)[0]
        again = self.appearance(painted, maps)[0]
        if not warming:
            ids, epoch = batch["sample_id"], batch["epoch"]
            take = uniform(self.seed, "painted", epoch, ids)[:, 0] < self.config.painted_ratio
            first = torch.where(take[:, None, None, None], painted.detach(), pictures[::every])
            pictures[::every] = first.to(pictures.dtype)
        return pictures, chosen, again

    def _pose_errors(self, pictures: Tensor, true: Posed) -> dict[str, Tensor]:
        """Of limbs, of the trunk's rotation, of joints in metres, and of their places in the
        picture, as posed and as looked for: (B,) each."""
        with unfollowed(self.encoder):  # real pictures are what it is for
            guess, seen = self.pose(pictures)
        lengths = self.unpaired.lengths
        mine, joints = place_limbs(seen.local, lengths), place_limbs(true.local, lengths)
        return {
            "limb": (guess.limbs - true.local).square().sum(-1).mean(1),
            "turn": (guess.turn - matrix_to_six_d(true.turn)).square().mean(1),
            "joints": (mine - joints).abs().mean((1, 2)),
            "place": (seen.joints2d - true.joints2d).abs().mean((1, 2)),
            "found": (guess.places - true.joints2d).abs().mean((1, 2)),
        }

    def _label_errors(self, batch: Batch, seen: Posed) -> Tensor:
        """L1 of joints relative to the pelvis where a row's labels are used: (B,) metres."""
        used = uniform(0, "label_fraction", 0, batch["sample_id"])[:, 0]
        joints = batch["joints3d"]
        weight = (
            joints[..., 3] * (joints[:, :1, 3] > 0) * (used < self.config.label_fraction)[:, None]
        )
        apart = (seen.joints - (joints[..., :3] - joints[:, :1, :3])).abs().mean(-1)
        return (apart * weight).sum(1) / weight.sum(1).clamp(min=1e-6)


def pyramid_error(picture: Tensor, target: Tensor) -> Tensor:
    """Mean L1 over a picture and its halves and quarters, (B, 3, H, W) twice -> (B,): the coarse
    levels see a limb that is beside its place, where the finest sees two unrelated ones."""
    total = torch.zeros(len(target), device=target.device)
    for _ in range(_LEVELS):
        total = total + (picture - target).abs().mean((1, 2, 3))
        picture, target = F.avg_pool2d(picture, 2), F.avg_pool2d(target, 2)
    return total / _LEVELS


def part_error(logits: Tensor, parts: Tensor) -> Tensor:
    """Cross-entropy of decoded parts (B, 1 + L, n, n) where the drawn ones are sure: (B,)."""
    share, part = parts.detach().max(1)
    sure = (share > _SURE).float()
    error = F.cross_entropy(logits.float(), part, reduction="none") * sure
    return error.sum((1, 2)) / sure.sum((1, 2)).clamp(min=1.0)


def _halvings(image_px: int, map_px: int) -> int:
    """How often a picture's side is halved to be the maps'."""
    steps = round(math.log2(image_px / map_px)) if image_px >= map_px else -1
    if steps < 0 or map_px * 2**steps != image_px:
        raise ValueError(
            f"map_px must be the picture's side, {image_px}, over a power of two; found {map_px}"
        )
    return steps
