"""Figures out of verifications: which runs count for a cell of a table, which of them it shows, and their mean."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias, final

import msgspec

from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.errors import RecordError
from abscert_plugin.verification.summary import Summary, clopper_pearson
from compare.plans.naming import variant
from compare.plans.planned_run import Run
from compare.results.verified_run import VerifiedRun, grouped

OWN: Final = "abstrain"
"""The paper's own method (AC); its training does not depend on a radius."""
Count: TypeAlias = Callable[[Summary], int]


def not_verified(summary: Summary) -> int:
    """Return how many images are not certified."""
    return summary.images - summary.certified


def mislabelled(summary: Summary) -> int:
    """Return how many clean images do not get their label."""
    return round(summary.clean_error * summary.images)


def labelled(summary: Summary) -> int:
    """Return how many clean images get their label."""
    return summary.images - mislabelled(summary)


@final
@dataclass(frozen=True, slots=True)
class Rate:
    """A share of images, averaged over seeds.

    Args:
        percent: the mean, 0 to 100.
        spread: the standard deviation over seeds, or the 95 % interval (Clopper and Pearson) of the one that there is.
    """

    percent: float
    spread: str


def rate(group: Sequence[VerifiedRun], count: Count) -> Rate:
    """Return the mean share of images that `count` counts, over runs that differ in their seed alone."""
    shares = [100 * count(verified.summary) / verified.summary.images for verified in group]
    if len(shares) > 1:
        return Rate(statistics.mean(shares), f"± {statistics.stdev(shares):.2f}, {len(shares)} seeds")
    summary = group[0].summary
    low, high = clopper_pearson(count(summary), summary.images)
    return Rate(shares[0], f"{100 * low:.2f} to {100 * high:.2f}")


def one_a_seed(group: Sequence[VerifiedRun]) -> tuple[VerifiedRun, ...]:
    """Return one verification for each seed, by seed: of two runs of one seed the first by its key.

    Raises:
        RecordError: if the records are of different versions, or of a verifier that proves its bounds and of one that
            does not, which are not averaged.
    """
    versions = sorted({verified.version for verified in group})
    title = group[0].run.title if group else ""
    if len(versions) > 1:
        raise RecordError(f"records of {title} are of versions {', '.join(versions)}; those are not averaged")
    if {True, False} <= {verified.proven for verified in group}:
        raise RecordError(f"records of {title} are by verifiers with and without proofs; verify the latter again")
    ordered = sorted(group, key=lambda verified: verified.run.key, reverse=True)
    seeds = {verified.run.seed: verified for verified in ordered}
    return tuple(seeds[seed] for seed in sorted(seeds))


def is_admissible(cells: int, radius: Radius) -> bool:
    """Return whether cells are at least as wide as the ball, d >= 2 epsilon, where Algorithm 3 of the paper stops.

    Both are on the training scale there: d = 2 / N, and epsilon is twice the radius in pixels.

    >>> [is_admissible(cells, Radius.parse("0.3", RadiusScale.TRAINING)) for cells in (2, 3, 4)]
    [True, True, False]
    """
    return 2 * cells * radius.pixel <= 1


def counts_for(verified: VerifiedRun, claim: str, radius: Radius) -> bool:
    """Return whether a verification counts for a claim at a radius.

    Claim `cell`: the cells are admissible. Claim `ball`: it was verified at the radius; a method that trains for a
    radius was trained for the same.
    """
    if verified.summary.claim != claim or (claim == "ball" and verified.radius is None):
        return False
    radii = () if verified.radius is None else (verified.radius,)
    return _may_count(verified.run, claim, radius, radii)


def would_count(run: Run, claim: str, radius: Radius) -> bool:
    """Return whether a run will have a verification that `counts_for` a claim at a radius, once it is carried out."""
    certified = [Radius.parse(text, run.radius_scale) for text in run.certify]
    return claim in run.claims and _may_count(run, claim, radius, certified)


def _may_count(run: Run, claim: str, radius: Radius, certified: Sequence[Radius]) -> bool:
    if claim == "cell":
        return run.cells is not None and is_admissible(run.cells, radius)
    if all(one.pixel != radius.pixel for one in certified):
        return False
    return run.method == OWN or run.trained_for.pixel == radius.pixel


def chosen(found: Sequence[VerifiedRun], protocol: str) -> tuple[VerifiedRun, ...]:
    """Return the runs that a cell shows, one for each seed; empty where there is none.

    Of several ways to train, those count that were tested on the most images; of these the one is taken that is best by
    the protocol's criterion, of equals the one with fewer cells. In `paper` that is the error on the test images
    themselves, as the paper does; in the others the validation error of the training.

    Raises:
        RecordError: if records of different versions would be averaged.
    """
    groups = grouped(found, _way)
    ways = [one_a_seed(groups[key]) for key in sorted(groups)]
    most = max((_images(way) for way in ways), default=0)
    criterion = _CRITERIA[protocol]
    return min(
        (way for way in ways if _images(way) == most),
        key=lambda way: (statistics.mean(map(criterion, way)), way[0].run.cells or 0),
        default=(),
    )


def _images(way: Sequence[VerifiedRun]) -> int:
    return min(verified.summary.images for verified in way)


def _way(verified: VerifiedRun) -> str:
    """Return what runs of one way to train and verify share: all but the seed, and what has no say in the figure."""
    run: Run = verified.run
    if run.method == OWN:
        run = msgspec.structs.replace(run, radius="0", radius_scale=RadiusScale.PIXEL)
    if verified.summary.claim == "cell":
        run = msgspec.structs.replace(run, timeout=0.0, ball_limit=None)
    return variant(run)


def _test_error(verified: VerifiedRun) -> float:
    return verified.summary.verified_error


def _validation_error(verified: VerifiedRun) -> float:
    return math.inf if verified.validation_error is None else verified.validation_error


_CRITERIA: Final[Mapping[str, Callable[[VerifiedRun], float]]] = MappingProxyType(
    {"paper": _test_error, "sound": _validation_error, "cpu": _validation_error}
)
