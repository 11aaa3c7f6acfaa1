"""Paper dolls: posed people drawn limb by limb as flat shapes, thousands a second.

The puppet of maps (`models.puppet`) has a slope everywhere and costs accordingly; pictures whose
pose is known need none. A doll is the same skeleton with limbs that taper, a skull, and a face that
shows from the front only: without it a figure looks the same from behind. Each limb is drawn in
shades, one inside the other and shifted towards the light, as a round limb looks.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from hpse_dist.body.joints import SMPL24
from hpse_dist.body.kinematics import NUM_LIMBS
from hpse_dist.objectives.unpaired import HEAD, NECK, Posed, Unpaired, front

SHADES = 3
HIPS, KNEES = (
    [SMPL24.index(f"{side}_{name}") for side in ("left", "right")] for name in ("hip", "knee")
)
_SKULL, _FACE, _THROAT = 0.10, 0.078, 0.052  # radii, metres
_SKULL_PLACE, _FACE_PLACE = (0.085, -0.015), (0.055, 0.035)  # up and forward from the head's joint
_WAIST, _HEM = 0.12, 0.24  # radii of a skirt, metres
_ROUND = 6  # corners of the half circle at a limb's end
_INSET = 0.33  # by how much of the radius each shade is smaller than the one around it
_DRIFT = 0.8  # of that, the part that it may move towards the light
_BITS = 4  # binary places of a corner's place, in cells


class Dolls:
    """Draws posed people as numbers of limbs and shades."""

    def __init__(self, unpaired: Unpaired) -> None:
        """unpaired: whose limbs and thickness the dolls have."""
        puppet = unpaired.puppet
        self.starts = puppet.starts[:NUM_LIMBS].cpu()
        self.ends = puppet.ends[:NUM_LIMBS].cpu()
        self.beyond = puppet.beyond[:NUM_LIMBS, None].cpu().clone()
        names = list(unpaired.limb_parts[:NUM_LIMBS])
        radius = puppet.radius[:NUM_LIMBS].cpu().clone()
        throat = SMPL24.index("head") - 1
        names[throat], self.beyond[throat], radius[throat] = "throat", 0.0, _THROAT
        self.names = (*names, "head", "face", "skirt")
        """Body parts of limbs: the skull is the 'head', what bears it the 'throat'."""
        self.radius = torch.cat((radius, torch.tensor([_SKULL, _FACE, _WAIST])))
        self.tip = torch.cat((self.radius[:-1], torch.tensor([_HEM])))
        for limb, end in enumerate(self.ends.tolist()):
            after = torch.nonzero(self.starts == end)[:, 0].tolist()
            if names[limb].endswith(("arm", "leg")) and len(after) == 1:
                slim = (radius[limb] + radius[after[0]]) / 2
                self.tip[limb] = torch.minimum(slim, radius[limb])

    def draw(
        self,
        posed: Posed,
        thickness: Tensor,
        skirt: Tensor,
        light: Tensor,
        scene: tuple[Tensor, Tensor],
        px: int,
    ) -> Tensor:
        """Numbers of what is seen, (B, px, px) uint8: 0 the background, 1 + limb * SHADES + shade,
        then those of things. thickness (B, K) factors of radii; skirt (B,), its length over the
        thighs', 0 for none; light (B, 2), where it comes from, at most 1 long; scene: corners of
        things behind the person, (B, N, C, 2), and the low and high corner of what something before
        it covers, (B, 4), shares of the crop. Of fake tensors (`planning.memory`) it has the size.
        """
        if is_fake(skirt):
            return skirt.new_empty(len(skirt), px, px, dtype=torch.uint8)
        posed, skirt = posed.on("cpu"), skirt.cpu()
        outlines, depth = self._outlines(posed, thickness.cpu(), skirt, light.cpu(), px)
        limbs, things = (_corners(places) for places in (outlines, scene[0].cpu() * px))
        farthest_first = (-depth).argsort(dim=1, stable=True).tolist()
        covers = (scene[1].cpu().clamp(0.0, 1.0) * px).long().tolist()
        pictures: np.ndarray = np.zeros((len(limbs), px, px), np.uint8)
        first = 1 + len(self.names) * SHADES
        for row, (picture, order, cover) in enumerate(
            zip(pictures, farthest_first, covers, strict=True)
        ):
            for number, thing in enumerate(things[row], start=first):
                cv2.fillConvexPoly(picture, thing, number, cv2.LINE_8, _BITS)
            for limb in order:
                for shade in range(SHADES):
                    number = 1 + limb * SHADES + shade
                    cv2.fillConvexPoly(picture, limbs[row, limb, shade], number, cv2.LINE_8, _BITS)
            picture[cover[1] : cover[3], cover[0] : cover[2]] = 0
        return torch.from_numpy(pictures)

    def _outlines(
        self, posed: Posed, thickness: Tensor, skirt: Tensor, light: Tensor, px: int
    ) -> tuple[Tensor, Tensor]:
        """Corners of each limb's shades in cells, (B, K, SHADES, 2 * _ROUND, 2), and the limbs'
        depths (B, K)."""
        joints = posed.joints
        head = _head(joints)
        legs = joints[:, HIPS].mean(1), joints[:, KNEES].mean(1)
        hem = legs[0] + skirt[:, None] * (legs[1] - legs[0])
        starts = torch.cat((joints[:, self.starts], head, joints[:, :1]), dim=1)
        ends = joints[:, self.ends]
        ends = ends + self.beyond * (ends - joints[:, self.starts])
        ends = torch.cat((ends, head, hem[:, None]), dim=1)
        worn = torch.ones_like(thickness)
        worn[:, -1] = skirt > 0
        size = posed.scale[:, None] * px * thickness * worn
        radii = (
            self.radius * size * posed.nearness(starts[..., 2]),
            self.tip * size * posed.nearness(ends[..., 2]),
        )
        depth = (starts[..., 2] + ends[..., 2]) / 2
        thighs = torch.minimum(*joints[:, KNEES, 2].unbind(1))
        # over both thighs, or else behind everything and of no size
        depth[:, -1] = torch.where(skirt > 0, torch.minimum(depth[:, -1], thighs) - 0.02, 1e3)
        return _shaded(posed.project(starts) * px, posed.project(ends) * px, radii, light), depth


def _corners(places: Tensor) -> np.ndarray:
    """Places in cells as OpenCV takes them: int32, with binary places, and counted from the first
    cell's middle, where everything here counts from the picture's corner."""
    corners: np.ndarray = np.round((places.numpy() - 0.5) * 2**_BITS).astype(np.int32)
    return corners


def _shaded(start: Tensor, end: Tensor, radii: tuple[Tensor, Tensor], light: Tensor) -> Tensor:
    """Outlines of limbs from (B, K, 2) to (B, K, 2), (B, K) thick at both ends, and the smaller
    ones within that lie towards the light (B, 2)."""
    # along the limb, where it has a length; no angles: their last bits depend on the batch's size
    along = F.normalize(end - start + torch.tensor([1e-4, 0.0]), dim=-1)
    across = torch.stack((-along[..., 1], along[..., 0]), dim=-1)
    angle = torch.linspace(0.5, 1.5, _ROUND).mul(torch.pi)
    angle = torch.cat((angle, angle + torch.pi))
    way = angle.cos()[:, None] * along[..., None, :] + angle.sin()[:, None] * across[..., None, :]
    ends = torch.stack((start, end), dim=2).repeat_interleave(_ROUND, dim=2)
    radius = torch.stack(radii, dim=2).repeat_interleave(_ROUND, dim=2)[..., None]
    inner = _INSET * torch.arange(SHADES)[:, None, None]
    drift = _DRIFT * light[:, None, None, None]
    return ends[:, :, None] + radius[:, :, None] * ((1 - inner) * way[:, :, None] + inner * drift)


def _head(joints: Tensor) -> Tensor:
    """Middles of skull and face: joints (B, 24, 3) -> (B, 2, 3)."""
    up = F.normalize(joints[:, HEAD] - joints[:, NECK], dim=-1)
    ahead = front(joints)
    ahead = F.normalize(ahead - (ahead * up).sum(-1, keepdim=True) * up, dim=-1)
    places = [joints[:, HEAD] + u * up + f * ahead for u, f in (_SKULL_PLACE, _FACE_PLACE)]
    return torch.stack(places, dim=1)
