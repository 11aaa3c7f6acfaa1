"""What became of workers, told without Ray's wrapping."""

from __future__ import annotations


def to_blame(failures: dict[int, Exception]) -> tuple[int, Exception]:
    """The worker to blame: one that died or hung rather than one that lost its peer."""
    ranked = sorted(failures.items())
    dead = [(rank, error) for rank, error in ranked if "HealthCheck" in type(error).__name__]
    return (dead or ranked)[0]


def story(error: BaseException) -> str:
    """What a worker did, in a few words."""
    if "HealthCheckTimeout" in type(error).__name__:
        return "did not answer any more"
    if "HealthCheckFailed" in type(error).__name__:
        return "died without a word: killed, out of memory, or its machine lost"
    return f"stopped with {type(error).__name__}: {' '.join(str(error).split())}"
