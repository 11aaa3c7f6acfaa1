"""What synthetic people do: postures and actions in anatomical angles (degrees), as tables.

An angle's name may carry a side: `l_`, `r_`; in the tables also `s_` (the side that acts) and `o_`
(the other), and no prefix for both. Signs: flexion forward, abduction away from the body, knee and
elbow flexion, ankle dorsiflexion and pronation are positive. `flat` 1 keeps a foot level whatever
hip and knee do; `lift` is the height of a jump in metres; `heading` turns the whole body.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Posture = dict[str, float]

POSTURES: dict[str, Posture] = {
    "stand": {},
    "hips": {"sh_abd": 42, "sh_flex": -18, "sh_rot": 55, "elbow": 98, "forearm": 20, "wrist": 20},
    "folded": {"sh_flex": 38, "sh_abd": -8, "sh_rot": 30, "elbow": 112, "s_elbow": 100},
    "behind": {"sh_flex": -32, "sh_abd": 14, "sh_rot": 40, "elbow": 62},
    "phone": {"s_sh_flex": 38, "s_elbow": 108, "s_forearm": -50, "neck_flex": 28, "spine_flex": 6},
    "call": {"s_sh_flex": 62, "s_sh_abd": 34, "s_elbow": 143, "neck_side": 8, "o_elbow": 24},
    "lean": {"pelvis_roll": 7, "s_hip_abd": 14, "s_knee": 16, "s_hip_flex": 9, "spine_side": -9},
    "up": {"sh_abd": 168, "elbow": 12, "neck_flex": -12, "spine_flex": -6},
    "wide": {"sh_abd": 92, "elbow": 5, "hip_abd": 16},
    "star": {"sh_abd": 140, "elbow": 8, "hip_abd": 27},
    "front": {"sh_flex": 90, "sh_abd": 4, "elbow": 8},
    "reach_up": {
        "s_sh_flex": 158, "s_sh_abd": 8, "s_elbow": 10, "neck_flex": -26, "spine_side": -9,
        "o_sh_abd": 20, "s_toe": 20, "spine_flex": -8,
    },
    "reach_far": {
        "s_sh_flex": 98, "s_elbow": 8, "spine_flex": 22, "spine_twist": -22, "pelvis_pitch": 12,
        "s_hip_flex": 36, "s_knee": 30, "o_sh_flex": -24, "hip_flex": 10,
    },
    "reach_side": {
        "s_sh_abd": 98, "s_elbow": 8, "spine_side": 16, "neck_twist": -38, "hip_abd": 11,
    },
    "pick": {
        "hip_flex": 88, "knee": 84, "pelvis_pitch": 26, "spine_flex": 42, "s_sh_flex": 66,
        "s_elbow": 8, "o_elbow": 46, "o_sh_flex": 10, "neck_flex": -14,
    },
    "toes": {
        "pelvis_pitch": 66, "hip_flex": 64, "spine_flex": 56, "sh_flex": 92, "elbow": 6, "knee": 8,
        "neck_flex": 16,
    },
    "squat": {
        "hip_flex": 106, "knee": 116, "hip_abd": 17, "hip_rot": -16, "pelvis_pitch": 17,
        "spine_flex": 22, "sh_flex": 84, "elbow": 14, "neck_flex": -16,
    },
    "half_squat": {
        "hip_flex": 62, "knee": 74, "hip_abd": 12, "pelvis_pitch": 12, "spine_flex": 18,
        "sh_flex": 30, "elbow": 72,
    },
    "lunge": {
        "s_hip_flex": 84, "s_knee": 88, "o_hip_flex": -20, "o_knee": 62, "o_flat": 0, "o_ankle": 10,
        "o_toe": 42, "sh_abd": 18, "elbow": 44,
    },
    "side_lunge": {
        "s_hip_abd": 30, "s_hip_flex": 62, "s_knee": 78, "o_hip_abd": 36, "pelvis_pitch": 18,
        "spine_flex": 16, "sh_flex": 44, "elbow": 72,
    },
    "kneel": {
        "s_hip_flex": 88, "s_knee": 92, "o_hip_flex": 2, "o_knee": 94, "o_flat": 0, "o_ankle": -32,
        "elbow": 34, "s_sh_flex": 28,
    },
    "sit": {
        "hip_flex": 88, "knee": 88, "hip_abd": 9, "pelvis_pitch": -3, "spine_flex": 12,
        "sh_flex": 26, "elbow": 56, "forearm": 30,
    },
    "sit_talk": {
        "hip_flex": 94, "knee": 84, "hip_abd": 13, "pelvis_pitch": 12, "spine_flex": 20,
        "sh_flex": 34, "sh_abd": 20, "elbow": 82, "neck_flex": -8, "s_sh_flex": 48,
    },
    "floor": {
        "hip_flex": 86, "knee": 22, "flat": 0, "ankle": -12, "pelvis_pitch": -12, "spine_flex": 18,
        "sh_flex": -34, "sh_abd": 20, "elbow": 10, "s_knee": 74, "s_hip_flex": 108, "neck_flex": 8,
    },
    "all_fours": {
        "pelvis_pitch": 84, "hip_flex": 84, "knee": 88, "flat": 0, "ankle": -36, "sh_flex": 86,
        "elbow": 6, "wrist": -52, "neck_flex": -34, "sh_abd": 3,
    },
    "plank": {
        "pelvis_pitch": 76, "hip_flex": 2, "knee": 3, "flat": 0, "ankle": 14, "toe": 40,
        "sh_flex": 80, "elbow": 5, "wrist": -50, "neck_flex": -26, "sh_abd": 6,
    },
    "press": {
        "pelvis_pitch": 84, "hip_flex": 2, "knee": 3, "flat": 0, "ankle": 14, "toe": 40,
        "sh_flex": 24, "sh_abd": 36, "elbow": 92, "wrist": -50, "neck_flex": -26,
    },
    "chamber": {
        "s_hip_flex": 78, "s_knee": 98, "s_flat": 0, "s_ankle": -10, "o_knee": 10, "sh_flex": 20,
        "sh_abd": 26, "elbow": 76, "spine_flex": 6,
    },
    "kick": {
        "s_hip_flex": 88, "s_knee": 10, "s_flat": 0, "s_ankle": -26, "o_knee": 12, "o_sh_flex": 44,
        "s_sh_flex": -32, "s_sh_abd": 28, "elbow": 40, "spine_flex": 14, "pelvis_pitch": -11,
    },
    "kick_back": {
        "s_hip_flex": -30, "s_knee": 72, "s_flat": 0, "s_ankle": -24, "o_knee": 14, "sh_abd": 34,
        "elbow": 30, "pelvis_pitch": 14, "spine_twist": 10,
    },
    "kick_side": {
        "s_hip_abd": 64, "s_hip_flex": 12, "s_knee": 8, "s_flat": 0, "pelvis_roll": -18,
        "o_knee": 8, "spine_side": 18, "elbow": 80, "sh_flex": 30, "sh_abd": 24,
    },
    "guard": {
        "sh_flex": 42, "sh_abd": 14, "elbow": 122, "knee": 24, "hip_flex": 20, "s_hip_flex": -4,
        "spine_flex": 12, "spine_twist": 16, "neck_flex": 8, "s_flat": 0.4,
    },
    "punch": {
        "s_sh_flex": 88, "s_sh_abd": -6, "s_elbow": 6, "s_forearm": 70, "o_sh_flex": 40,
        "o_elbow": 126, "spine_twist": -28, "pelvis_yaw": -14, "knee": 24, "hip_flex": 18,
        "s_flat": 0.3, "spine_flex": 12,
    },
    "hook": {
        "s_sh_abd": 84, "s_sh_flex": 46, "s_elbow": 92, "o_sh_flex": 42, "o_elbow": 126,
        "spine_twist": -34, "pelvis_yaw": -18, "knee": 26, "hip_flex": 20,
    },
    "cock": {
        "s_sh_abd": 98, "s_sh_flex": -24, "s_sh_rot": -74, "s_elbow": 96, "spine_twist": 34,
        "o_sh_flex": 74, "o_elbow": 20, "o_hip_flex": 30, "o_knee": 24, "pelvis_yaw": 16,
    },
    "release": {
        "s_sh_flex": 106, "s_elbow": 18, "spine_flex": 26, "spine_twist": -32, "o_hip_flex": 40,
        "o_knee": 36, "s_hip_flex": -18, "s_flat": 0, "s_toe": 32, "pelvis_pitch": 12,
        "o_sh_flex": -20, "o_elbow": 62, "pelvis_yaw": -16,
    },
    "wave": {"s_sh_abd": 106, "s_sh_rot": -76, "s_elbow": 84, "neck_twist": 6},
    "wave_high": {"s_sh_abd": 156, "s_elbow": 26, "neck_flex": -10, "spine_side": -7},
    "point": {"s_sh_flex": 86, "s_sh_abd": 12, "s_elbow": 6, "neck_twist": 8, "spine_twist": -9},
    "explain": {"sh_flex": 24, "sh_abd": 20, "elbow": 84, "forearm": -50, "neck_side": 5},
    "shrug": {"sh_abd": 30, "sh_flex": 10, "elbow": 96, "forearm": -78, "neck_side": 12},
    "clap": {"sh_flex": 58, "sh_abd": -14, "sh_rot": 22, "elbow": 72},
    "apart": {"sh_flex": 50, "sh_abd": 26, "elbow": 58},
    "head_hold": {"sh_abd": 112, "sh_flex": 26, "sh_rot": -66, "elbow": 138, "neck_flex": -6},
    "tree": {
        "s_hip_flex": 52, "s_hip_abd": 44, "s_hip_rot": -42, "s_knee": 126, "s_flat": 0,
        "s_ankle": -24, "sh_abd": 160, "elbow": 34,
    },
    "bow": {
        "s_hip_flex": -34, "s_knee": 16, "s_flat": 0, "s_ankle": -34, "pelvis_pitch": 56,
        "o_hip_flex": 58, "sh_abd": 86, "elbow": 6, "neck_flex": -28,
    },
    "side_bend": {"spine_side": 32, "o_sh_abd": 164, "o_elbow": 16, "hip_abd": 12, "neck_side": 12},
    "twist": {"spine_twist": 42, "sh_abd": 74, "elbow": 24, "neck_twist": 30, "hip_abd": 11},
    "lift_low": {
        "hip_flex": 98, "knee": 100, "hip_abd": 14, "pelvis_pitch": 24, "spine_flex": 30,
        "sh_flex": 60, "elbow": 14,
    },
    "carry": {"sh_flex": 32, "elbow": 84, "forearm": -40, "spine_flex": -6, "knee": 8},
    "overhead": {"sh_flex": 166, "sh_abd": 8, "elbow": 22, "neck_flex": -14},
    "crouch": {
        "hip_flex": 74, "knee": 94, "pelvis_pitch": 22, "spine_flex": 28, "sh_flex": -42,
        "elbow": 22,
    },
    "leap": {
        "hip_flex": 6, "knee": 12, "flat": 0, "ankle": -34, "sh_flex": 128, "sh_abd": 24,
        "elbow": 20, "lift": 0.34, "spine_flex": -6,
    },
    "hop_star": {
        "hip_abd": 28, "sh_abd": 158, "elbow": 10, "lift": 0.1, "flat": 0, "ankle": -22, "knee": 8,
    },
    "hop": {"lift": 0.08, "flat": 0, "ankle": -24, "knee": 10, "sh_abd": 16},
    "swing": {
        "s_sh_flex": 60, "o_sh_flex": 54, "s_sh_abd": 20, "o_sh_abd": -30, "spine_twist": 44,
        "pelvis_yaw": 18, "elbow": 20, "knee": 20, "hip_flex": 20, "spine_flex": 20,
    },
    "follow": {
        "o_sh_flex": 92, "s_sh_flex": 104, "o_sh_abd": 30, "s_sh_abd": -32, "spine_twist": -44,
        "pelvis_yaw": -26, "elbow": 34, "s_flat": 0.2, "knee": 12, "hip_flex": 8,
    },
    "groove_a": {
        "pelvis_roll": 10, "s_knee": 28, "s_hip_flex": 22, "s_sh_abd": 58, "s_elbow": 92,
        "o_sh_flex": 46, "o_elbow": 74, "spine_side": -12, "spine_twist": 16,
    },
    "groove_b": {
        "pelvis_roll": -10, "o_knee": 28, "o_hip_flex": 22, "o_sh_abd": 84, "o_elbow": 58,
        "s_sh_flex": 84, "s_elbow": 84, "spine_side": 12, "spine_twist": -18, "neck_side": 8,
    },
    "groove_c": {
        "hip_flex": 42, "knee": 52, "spine_flex": 12, "sh_abd": 96, "elbow": 74, "sh_rot": -50,
        "hip_abd": 15, "neck_flex": 12,
    },
    "groove_d": {
        "s_hip_flex": 62, "s_knee": 74, "s_flat": 0, "s_ankle": -20, "o_knee": 12, "sh_flex": 62,
        "elbow": 90, "sh_abd": 34, "spine_twist": -12, "lift": 0.02,
    },
}  # fmt: skip
"""Named postures: what differs from relaxed standing."""


@dataclass(frozen=True)
class Action:
    """Postures passed in a circle, each held and reached in so many seconds."""

    steps: tuple[tuple[str, float], ...]
    """(posture, seconds to reach it)."""
    waves: tuple[tuple[str, float, float], ...] = ()
    """(angle, amplitude degrees, cycles per second) added on top."""
    hold: float = 0.15
    """Seconds a posture is kept, on average."""
    turn: float = 0.0
    """Largest speed of turning on the spot, degrees per second."""
    share: float = 1.0
    """How often it is chosen, relative to the others."""
    seat: bool = False
    """Needs something to sit on."""
    ways: tuple[tuple[str, str], ...] = field(default=())
    """Postures that may replace a posture of `steps`: (posture, replacement)."""


ACTIONS: dict[str, Action] = {
    "idle": Action(
        (("stand", 0.9), ("lean", 1.0), ("hips", 0.9), ("folded", 1.0)),
        (("neck_twist", 14, 0.21), ("spine_twist", 4, 0.17)),
        hold=0.9,
        turn=25,
        share=1.5,
    ),
    "phone": Action((("phone", 0.9), ("call", 1.1), ("lean", 0.9)), hold=1.0, turn=20),
    "talk": Action(
        (("explain", 0.6), ("shrug", 0.6), ("point", 0.6), ("explain", 0.6), ("behind", 0.9)),
        (("s_elbow", 12, 0.9), ("o_forearm", 18, 0.7), ("neck_twist", 12, 0.3)),
        turn=25,
        share=1.4,
    ),
    "wave": Action(
        (("wave", 0.7), ("wave", 0.8), ("wave_high", 0.6), ("stand", 0.8)),
        (("s_elbow", 22, 1.7), ("s_sh_rot", 10, 1.7)),
        turn=20,
    ),
    "reach": Action(
        (("reach_up", 0.8), ("stand", 0.8), ("reach_far", 0.8), ("reach_side", 0.9), ("pick", 1.0)),
        turn=60,
        share=1.6,
    ),
    "squat": Action((("squat", 1.0), ("stand", 0.9)), hold=0.2, turn=15),
    "lunge": Action((("lunge", 0.9), ("stand", 0.8), ("side_lunge", 0.9), ("hips", 0.9)), turn=20),
    "kick": Action(
        (("guard", 0.5), ("chamber", 0.35), ("kick", 0.3), ("chamber", 0.35), ("kick_side", 0.5)),
        turn=50,
        share=1.2,
    ),
    "ball": Action((("kick_back", 0.45), ("kick", 0.32), ("stand", 0.6)), turn=40),
    "box": Action(
        (("guard", 0.4), ("punch", 0.24), ("guard", 0.3), ("hook", 0.28), ("half_squat", 0.45)),
        turn=70,
        hold=0.08,
        share=1.2,
    ),
    "throw": Action((("cock", 0.7), ("release", 0.34), ("stand", 0.8)), turn=30, share=1.2),
    "swing": Action((("swing", 0.7), ("follow", 0.36), ("stand", 0.8)), turn=25),
    "stretch": Action(
        (("up", 1.0), ("side_bend", 1.0), ("toes", 1.2), ("twist", 1.0), ("head_hold", 1.0)),
        hold=0.4,
        turn=15,
        share=1.4,
    ),
    "arms": Action((("wide", 0.7), ("up", 0.7), ("front", 0.7), ("star", 0.7)), turn=30),
    "jack": Action((("hop_star", 0.36), ("hop", 0.36)), hold=0.02),
    "jump": Action(
        (("crouch", 0.5), ("leap", 0.3), ("half_squat", 0.34), ("stand", 0.5)), hold=0.05
    ),
    "clap": Action((("clap", 0.3), ("apart", 0.3), ("clap", 0.3), ("up", 0.7)), hold=0.04, turn=30),
    "balance": Action((("tree", 1.1), ("stand", 0.9), ("bow", 1.2)), hold=0.6, turn=10),
    "carry": Action(
        (("lift_low", 1.0), ("carry", 0.9), ("overhead", 0.9), ("carry", 0.8)), turn=70
    ),
    "dance": Action(
        (("groove_a", 0.42), ("groove_b", 0.42), ("groove_c", 0.42), ("groove_d", 0.42)),
        (("pelvis_roll", 5, 1.2), ("spine_twist", 7, 0.6), ("neck_side", 6, 1.2)),
        hold=0.04,
        turn=110,
        share=2.2,
        ways=(
            ("groove_c", "up"),
            ("groove_d", "wide"),
            ("groove_a", "hips"),
            ("groove_b", "twist"),
        ),
    ),
    "kneel": Action((("kneel", 1.1), ("pick", 1.0), ("stand", 1.0)), hold=0.5, turn=20),
    "sit": Action(
        (("sit", 1.0), ("sit_talk", 0.8)),
        (("s_elbow", 10, 0.6), ("neck_twist", 16, 0.25), ("s_knee", 6, 0.3)),
        hold=0.5,
        seat=True,
        share=1.3,
    ),
    "ground": Action((("floor", 1.1), ("all_fours", 1.4)), hold=0.7, share=0.6),
    "press": Action((("plank", 0.8), ("press", 0.8)), hold=0.15, share=0.6),
}
"""Actions made of postures; gaits are in `motion.GAITS`."""

DEEP: tuple[str, ...] = (
    "squat",
    "kneel",
    "ground",
    "press",
    "sit",
    "lunge",
    "carry",
    "balance",
    "reach",
)
"""Actions that bend the hips deeply: not for skirts."""
