"""Synthetic people: rendered crops of clothed, moving bodies, with exact labels.

surface and appearance make a person, motion and actions move them, scene puts them into a room or
outdoors with calibrated cameras, render casts the rays, produce streams the records.
"""

from __future__ import annotations

from hpse_dist.synth.produce import SyntheticConfig, frames, in_parts, provenance

Config = SyntheticConfig

__all__ = ["Config", "SyntheticConfig", "frames", "in_parts", "provenance"]
