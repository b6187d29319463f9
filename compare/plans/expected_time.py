"""About how long a run takes, by what the entries of its data set and method tell, and by the pace of this machine."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from abscert_plugin.claim import Claim
from abscert_plugin.data.table import data_entry
from abscert_plugin.errors import ConfigError
from abscert_plugin.networks import InputShape
from abscert_plugin.training.config import default_config
from abscert_plugin.training.methods import METHODS
from compare.plans.pace import method_pace, plain_pace
from compare.plans.planned_run import Run

Pace: TypeAlias = Callable[[str, InputShape, bool], float]
"""Seconds of an image in a step of plain training: of a network, an image's shape, and whether it takes intervals."""
_EVALUATED: Final = 0.4  # of an epoch of plain training: what the validation after it costs
# Of the 50 runs in benchmarks/records: the share of --timeout that an image takes where the network was trained for
# its balls, and where it was not, and what every image takes besides.
_CLOSED: Final = 0.02
_OPEN: Final = 0.65
_EACH: Final = 0.005
_SEARCH: Final = 10_000  # plain steps of an image that a whole search takes, of a network so small that it ends
_USUAL: Final = 8.5  # steps of plain training in a step of a method that cannot be timed
_OVERHEAD: Final = 10.0  # seconds of a run: its process, libraries, export and checks


def expected_seconds(
    run: Run, pace: Pace = plain_pace, folders: Mapping[str, tuple[int, int]] = MappingProxyType({})
) -> float | None:
    """Return about how many seconds a run takes on this machine while it has no other work.

    A few steps of plain training of the run's network are timed, once for each network; a method says how many of
    these one of its steps takes, and is timed itself where it does not. None where it is not known what there is.

    Args:
        run: the run.
        pace: times plain training.
        folders: number of training and test images of data whose entry does not tell; their images have three
            channels.
    """
    entry = data_entry(run.data)
    shape, images, tests = entry.image_shape(run.image_size), entry.training_images, entry.test_images
    if run.data in folders and run.image_size is not None:
        shape, (images, tests) = (3, run.image_size, run.image_size), folders[run.data]
    if shape is None or images is None or tests is None:
        return None
    tests = min(tests, run.limit or tests, run.ball_limit or tests)
    try:
        plain = pace(run.network, shape, run.cells is not None)
    except ConfigError:
        plain = 0.0
    step = _step(run, shape, plain)
    epochs = run.epochs or default_config(run.data, run.network).epochs
    training = epochs * images * (step + _EVALUATED * plain)
    if "ball" not in run.claims:
        return training + _OVERHEAD
    method = METHODS.named(run.method).create(run.trained_for, run.options)
    share = _CLOSED if method.claim == Claim.BALL else _OPEN
    searching = min(run.timeout, _SEARCH * plain)
    return training + len(run.certify) * tests * (searching * share + _EACH) + _OVERHEAD


def _step(run: Run, shape: InputShape, plain: float) -> float:
    """Return the seconds of an image in a step of the run's method."""
    entry = METHODS.named(run.method)
    if entry.step_cost is not None:
        return plain * entry.step_cost
    options = tuple(sorted(run.options.items()))
    timed = method_pace(run.method, options, run.network, shape, run.cells, run.trained_for)
    return _USUAL * plain if timed is None else timed
