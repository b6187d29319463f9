"""Names that options take, for help and completion: read without torch, and without loading another package's code.

The tables themselves (`METHODS`, `NETWORKS`, `Activation`) need torch, which takes longer to import than a user waits
for a page of help. A test holds these names against the tables.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Final

from abscert_plugin.claim import PROVABLE, Arithmetic, Inputs
from abscert_plugin.data import DATA_SETS
from abscert_plugin.engines import table
from abscert_plugin.engines.table import LOCAL

_METHODS: Final = ("abstrain", "reachable")
_NETWORKS: Final = (
    "dm-small",
    "dm-medium",
    "dm-large",
    "cnn-2layer",
    "cnn-3layer",
    "cnn-3layer-wide",
    "cnn-7",
    "fc-3",
    "fc-5",
    "fc-3-code",
    "fc-5-code",
    "alexnet",
    "vgg11",
    "inception-v1",
    "resnet18",
)
ACTIVATIONS: Final = ("relu", "sigmoid", "tanh", "param-ramp")
BOUNDS: Final = ("ibp", "crown-ibp", "crown-lbp", "crown", "optimised")
_FOLLOWERS: Final = ("vibecheck", "marabou", "alpha-beta-CROWN")
EDGES: Final = ("uniform", "quantile", "sparse")
INPUTS: Final = tuple(map(str, Inputs))
ENGINES: Final = (LOCAL, *table.ENGINES)
ARITHMETICS: Final = (*map(str, PROVABLE), str(Arithmetic.THIS_RUNTIME))


def _with_registered(own: tuple[str, ...], group: str) -> tuple[str, ...]:
    """Return names of ours, then those of entry points; an entry point has the name of what it registers."""
    others = sorted(point.name for point in entry_points(group=group))
    return tuple(dict.fromkeys((*own, *others)))


def methods() -> tuple[str, ...]:
    """Return the names of the training methods."""
    return _with_registered(_METHODS, "abscert.methods")


def networks() -> tuple[str, ...]:
    """Return the names of the networks."""
    return _with_registered(_NETWORKS, "abscert.networks")


def data_sets() -> tuple[str, ...]:
    """Return the names of the data sets."""
    return tuple(DATA_SETS)


def solvers() -> tuple[str, ...]:
    """Return the names of the solvers."""
    return _with_registered(("abscert",), "abscert.solvers")


def followers() -> tuple[str, ...]:
    """Return the names of the solvers that may be asked about what stays open."""
    return _with_registered(_FOLLOWERS, "abscert.solvers")


IN_HELP: Final[Mapping[str, Callable[[], tuple[str, ...]]]] = MappingProxyType(
    {
        "{methods}": methods,
        "{networks}": networks,
        "{activations}": lambda: ACTIVATIONS,
        "{bounds}": lambda: BOUNDS,
        "{data}": data_sets,
        "{engines}": lambda: ENGINES,
    }
)
"""What help has in place of these words."""
