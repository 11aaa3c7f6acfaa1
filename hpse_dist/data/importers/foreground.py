"""The moving person in still, calibrated cameras: one mask per view and one place in the world.

A camera alone sees changes: the person, but also shadows, ghosts of where the person stood before,
and whoever passes in the distance. What counts is what the cameras agree on: silhouettes are carved
into a visual hull (Laurentini 1994), and a mask is what the hull and the picture have in common.

The background of a pixel is its median over moments when the person is elsewhere. Where the person
is comes first from motion over a tenth of a second, which knows no ghosts, and then from the hull
itself. A pixel that the person never leaves has no background; there the person's colours decide.

Everything here works on shrunk pictures without lens distortion; points are in the world's metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import scipy

from hpse_dist.data.importers.hull import Hull, View, grow, inner

ENOUGH = 4  # moments without the person that make a background
SPECK_PX = 12  # components with fewer pixels are noise
PERSON_COLOUR, OTHER_COLOUR = 0.5, 0.35  # likelihoods: rather the person's, rather not
COLOUR_STEPS = 16  # histogram bins per channel


@dataclass(frozen=True)
class ForegroundConfig:
    """How the moving person is cut out of still cameras' pictures."""

    work_px: int = 480
    """Long side of the shrunk pictures that masks are made on."""
    background_frames: int = 60
    """Moments, spread over the clip, that each camera's background is taken from."""
    motion_s: float = 0.1
    """Gap between the pictures whose difference counts as motion, seconds."""
    motion_threshold: float = 20.0
    """Colour difference, 0..255, that counts as motion."""
    threshold: float = 28.0
    """Colour difference from the background, 0..255, at which a pixel may as well be the person."""
    voxel_m: float = 0.03
    """Side of the visual hull's cells, metres."""
    tolerance_px: float = 2.0
    """How far the silhouettes of two cameras may miss each other, pixels of the shrunk picture."""
    extent_m: tuple[float, float] = (0.5, 3.0)
    """Smallest and largest diagonal of what is taken for the person, metres."""
    margin: float = 0.03
    """What a box is wider than its mask on each side, share of the longer side: toes get lost."""

    def __post_init__(self) -> None:
        for name in ("work_px", "background_frames", "motion_s", "threshold", "voxel_m"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, found {getattr(self, name)}")
        if not 0 <= self.extent_m[0] < self.extent_m[1]:
            raise ValueError(f"extent_m must be (smallest, largest), found {self.extent_m}")


@dataclass(frozen=True)
class Person:
    """The person at one moment."""

    centre: np.ndarray
    """(3,) middle of the hull in the world, metres."""
    masks: list[np.ndarray]
    """Per camera (h, w) bool in the shrunk picture; all False where it does not see the person."""


def without_specks(mask: np.ndarray, area: int = SPECK_PX) -> np.ndarray:
    """A bool mask without its components of fewer than `area` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    keep = stats[:, cv2.CC_STAT_AREA] >= area
    keep[0] = False
    return keep[labels]


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(H, W) uint8, the largest of the channels' absolute differences, lightly smoothed."""
    return _largest_channel(cv2.GaussianBlur(cv2.absdiff(a, b), (3, 3), 0))


def _largest_channel(picture: np.ndarray) -> np.ndarray:
    # ten times as fast as max(axis=2)
    return cv2.max(cv2.max(picture[..., 0], picture[..., 1]), picture[..., 2])


def moving(before: np.ndarray, now: np.ndarray, after: np.ndarray, threshold: float) -> np.ndarray:
    """(H, W) bool, where a picture differs from the one before it or the one after it."""
    strength = np.maximum(difference(now, before), difference(now, after))
    return without_specks(strength > threshold)


def colour_bins(image: np.ndarray) -> np.ndarray:
    """Index of each pixel's colour in a flat histogram of COLOUR_STEPS cubed."""
    step: np.ndarray = (image // (256 // COLOUR_STEPS)).astype(np.int32)
    return (step[..., 0] * COLOUR_STEPS + step[..., 1]) * COLOUR_STEPS + step[..., 2]


def _histogram(bins: np.ndarray) -> np.ndarray:
    counts = np.bincount(bins, minlength=COLOUR_STEPS**3).astype(np.float64)
    smooth = scipy.ndimage.gaussian_filter(counts.reshape((COLOUR_STEPS,) * 3), 0.8).ravel()
    return smooth / max(smooth.sum(), 1e-12)


def colour_likelihood(person: np.ndarray, background: np.ndarray) -> np.ndarray:
    """How much rather each colour is the person's, 0..1, from (N, 3) uint8 pixels of both."""
    mine, other = _histogram(colour_bins(person)), _histogram(colour_bins(background))
    return ((mine + 1e-5) / (mine + other + 2e-5)).astype(np.float32)


def median_where(samples: np.ndarray, free: np.ndarray) -> np.ndarray:
    """(N, 3) uint8 median over the moments that are free: (n, N, 3) uint8 and (n, N) bool.

    Every pixel must be free at least once.
    """
    values = np.where(free[:, :, None], samples, np.int16(256))
    values.sort(axis=0)
    middle = (free.sum(axis=0) - 1) // 2
    return np.take_along_axis(values, middle[None, :, None], axis=0)[0].astype(np.uint8)


def widen(covers: np.ndarray, moments: int) -> np.ndarray:
    """(n, ...) bool, each moment's cover together with those up to `moments` before and after."""
    if moments == 0:
        return covers
    count = np.cumsum(np.concatenate([np.zeros_like(covers[:1], np.int16), covers]), axis=0)
    n = len(covers)
    moment: np.ndarray = np.arange(n)
    last, first = np.minimum(moment + moments + 1, n), np.maximum(moment - moments, 0)
    return count[last] > count[first]


class Background:
    """What one still camera sees when the person is away, and the colours of the person."""

    def __init__(self, samples: np.ndarray, covers: np.ndarray, colour: np.ndarray | None) -> None:
        """From (n, h, w, 3) pictures, (n, h, w) where the person may be, its colours if known."""
        self.picture: np.ndarray = np.median(samples, axis=0).astype(np.uint8)
        self.known: np.ndarray = np.ones(covers.shape[1:], bool)
        reach = max(covers.shape[1:]) / 30
        beside = np.stack([grow(cover, reach) for cover in covers])
        region = beside.any(axis=0)
        values, covered = samples[:, region], covers[:, region]
        if colour is None:
            self._set(region, values, covered)
            colour = self._learn_colour(samples, covers, region)
            # a foot that stands still shows no motion: what has the person's colour next to the
            # person is not taken for background
            covered |= beside[:, region] & (colour[colour_bins(values)] > PERSON_COLOUR)
        self.colour: np.ndarray = colour
        self._set(region, values, covered, colour[colour_bins(values)] < OTHER_COLOUR)

    def _set(
        self,
        region: np.ndarray,
        values: np.ndarray,
        covered: np.ndarray,
        unlike: np.ndarray | None = None,
    ) -> None:
        """Medians of the region's (n, N) pixels where not covered, else where unlike the person."""
        n = len(values)
        picture, known = self.picture[region], np.zeros(values.shape[1], bool)
        # the longer the person has been away, the surer; so the widest cover that leaves enough
        choices = [~widen(covered, moments) for moments in (n // 3, n // 6, 0)]
        for free in choices if unlike is None else [*choices, unlike]:
            todo = np.flatnonzero(~known & (free.sum(axis=0) >= ENOUGH))
            picture[todo] = median_where(values[:, todo], free[:, todo])
            known[todo] = True
        self.picture[region], self.known[region] = picture, known

    def _learn_colour(
        self, samples: np.ndarray, covers: np.ndarray, region: np.ndarray
    ) -> np.ndarray:
        """Likelihood from clear changes inside the covers against the background around them."""
        person = [
            picture[cover & self.known & (difference(picture, self.picture) > 40)]
            for picture, cover in zip(samples, covers, strict=True)
        ]
        return colour_likelihood(np.concatenate(person), self.picture[region & self.known])

    def silhouettes(self, picture: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """(h, w) bool twice: where the person may be, and where it surely is, to this camera alone.

        They differ where the background is unknown and the colour says little.
        """
        change = _without_shadow(picture, self.picture, threshold)
        likelihood = self.colour[colour_bins(picture)]
        colour = np.clip(np.log(likelihood / (1 - likelihood)), -3, 3)
        changed = np.clip((change - threshold) * (3.5 / threshold), -3, 3) + 0.5 * colour
        person_like = (likelihood > OTHER_COLOUR) | ~self.known
        may = _solid(np.where(self.known, changed, colour + 0.5), person_like)
        surely = _solid(np.where(self.known, changed, colour - 1.0), person_like)
        return may, surely


def _solid(evidence: np.ndarray, person_like: np.ndarray) -> np.ndarray:
    """(h, w) bool, evidence above 0 around a pixel, closed, without specks and holes."""
    mask = without_specks(cv2.GaussianBlur(evidence.astype(np.float32), (0, 0), 1.0) > 0)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disc).astype(bool)
    outside = np.pad(mask, 1).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 1)
    return mask | ((outside[1:-1, 1:-1] == 0) & person_like)


def _without_shadow(picture: np.ndarray, background: np.ndarray, threshold: float) -> np.ndarray:
    """(h, w) float32 change, little where the background only got darker by up to a third."""
    change: np.ndarray = difference(picture, background).astype(np.float32)
    now: np.ndarray = picture.astype(np.float32)
    before: np.ndarray = background.astype(np.float32)
    product, square = cv2.multiply(now, before), cv2.multiply(before, before)
    ones: np.ndarray = np.ones((1, 3), np.float32)
    gain = cv2.transform(product, ones) / np.maximum(cv2.transform(square, ones), 1.0)
    rest = _largest_channel(cv2.absdiff(now, np.clip(gain, 0.65, 1.0)[..., None] * before))
    return np.where(rest < threshold / 2, np.minimum(change, rest), change)


class Foreground:
    """Finds the moving person in the pictures that still cameras took at one moment."""

    def __init__(
        self,
        views: Sequence[View],
        samples: Sequence[np.ndarray],
        motion: Sequence[np.ndarray],
        config: ForegroundConfig,
    ) -> None:
        """Learns the backgrounds from, per camera, (n, h, w, 3) pictures and (n, h, w) motion."""
        self.config = config
        self.hull = Hull(views)
        covers = self._motion_covers(motion)
        if not any(cover.any() for cover in covers):
            raise ValueError(
                "no motion that the cameras agree on: the calibration may belong to other videos "
                "or be in another unit (with this unit_m the farthest camera is "
                f"{self.hull.radius:,.2f} m from where they look together), the cameras may not be "
                "synchronous, or nobody moves; set source.unit_m, or give a file of boxes"
            )
        self.backgrounds = [Background(s, c, None) for s, c in zip(samples, covers, strict=True)]
        covers = self._hull_covers(samples, covers)
        self.backgrounds = [
            Background(s, c, b.colour)
            for s, c, b in zip(samples, covers, self.backgrounds, strict=True)
        ]

    def _motion_covers(self, motion: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Where the person may be, from motion: generous, for a slow limb hardly moves."""
        config, views = self.config, self.hull.views
        covers = [np.zeros_like(m) for m in motion]
        for n in range(len(motion[0])):
            masks = [grow(m[n], config.work_px / 60) for m in motion]
            points = self.hull.carve(masks, 2 * config.voxel_m, config.tolerance_px)
            if points is not None:
                for cover, view in zip(covers, views, strict=True):
                    cover[n] = self.hull.shadow(points, view, 2 * config.voxel_m)
        return covers

    def _hull_covers(
        self, samples: Sequence[np.ndarray], covers: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Where the person may be, from silhouettes; one camera may miss what the others see."""
        config, step = self.config, self.config.voxel_m * 1.3
        result = [cover.copy() for cover in covers]
        for n in range(len(samples[0])):
            may, surely = self._silhouettes([s[n] for s in samples])
            person = self._agree(may, surely, step)
            loose = self.hull.carve(may, step, config.tolerance_px / 2, misses=1)
            if person is None or loose is None:
                continue  # the motion's cover stays
            for cover, mask, view in zip(result, person.masks, self.hull.views, strict=True):
                cover[n] = grow(mask, config.work_px / 160) | self.hull.shadow(loose, view, step)
        return result

    def _silhouettes(
        self, pictures: Sequence[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        both = [
            background.silhouettes(picture, self.config.threshold)
            for background, picture in zip(self.backgrounds, pictures, strict=True)
        ]
        return [may for may, _ in both], [surely for _, surely in both]

    def find(self, pictures: Sequence[np.ndarray]) -> Person | None:
        """The person in one (h, w, 3) uint8 picture per camera, or None."""
        return self._agree(*self._silhouettes(pictures), self.config.voxel_m)

    def _agree(
        self, may: Sequence[np.ndarray], surely: Sequence[np.ndarray], step: float
    ) -> Person | None:
        """What the silhouettes have in common with their hull."""
        config = self.config
        cells = self.hull.carve(may, step, config.tolerance_px)
        if cells is None:
            return None
        low, high = cells.min(axis=0), cells.max(axis=0)
        if not config.extent_m[0] <= np.linalg.norm(high - low) <= config.extent_m[1]:
            return None
        core = inner(cells, step)
        parts = []
        for sure, view in zip(surely, self.hull.views, strict=True):
            part = sure & grow(self.hull.shadow(cells, view, step), config.tolerance_px)
            part |= self.hull.shadow(core, view, step)
            parts.append(without_specks(part, 4 * SPECK_PX))
        return Person(cells.mean(axis=0), parts)
