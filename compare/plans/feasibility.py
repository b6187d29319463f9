"""Whether a run can be carried out, before it is: its names exist, and its method can train its network."""

from functools import cache
from typing import Final

import torch

from abscert_plugin.choices import expected_one_of
from abscert_plugin.claim import Radius
from abscert_plugin.data.table import data_entry
from abscert_plugin.draws import drawing_from
from abscert_plugin.errors import ConfigError, UnsupportedModelError
from abscert_plugin.networks import NETWORKS, Activation, InputShape, NetworkConfig
from abscert_plugin.training.methods import METHODS
from abscert_plugin.verification.solvers import SOLVERS
from compare.plans.planned_run import Run

_CLASSES: Final = 10
_ANY_RADIUS: Final = Radius.parse("0.1")  # no method asks for it before it trains


def check_run(run: Run) -> None:
    """Return if nothing speaks against a run; no data and no weights are read.

    Whether the method can train the network is known for data sets alone whose entry tells the images' shape.

    Raises:
        ConfigError: if a name is unknown, or the method cannot train the network.
    """
    entry = data_entry(run.data)
    if run.network not in NETWORKS:
        raise ConfigError(f"{run.title}: {expected_one_of('a network', NETWORKS, run.network)}")
    if run.solver is not None:
        SOLVERS.named(run.solver)
    activation = run.activation or str(METHODS.named(run.method).activation)
    if activation not in list(Activation):
        raise ConfigError(expected_one_of("an activation", Activation, activation))
    shape = entry.image_shape(run.image_size)
    if shape is None:
        return
    fault = _fault(run.method, tuple(run.options.items()), run.network, activation, shape, run.cells is not None)
    if fault:
        raise ConfigError(f"{run.title}: {fault}")


@cache
def _fault(
    method: str,
    options: tuple[tuple[str, str], ...],
    network: str,
    activation: str,
    shape: InputShape,
    takes_intervals: bool,
) -> str:
    """Return why a method cannot train a network; empty where nothing is known to be wrong."""
    config = NetworkConfig(network, Activation(activation), shape, _CLASSES, takes_intervals)
    try:
        with torch.device("meta"), drawing_from(0):
            built = config.build(0)
            METHODS.named(method).create(_ANY_RADIUS, dict(options)).prepare(built)
    except (ConfigError, UnsupportedModelError) as error:
        return str(error)
    return ""
