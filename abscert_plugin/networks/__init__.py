"""Networks: one file per family, a table from name to builder."""

from abscert_plugin.networks.activation import Activation
from abscert_plugin.networks.shape import InputShape
from abscert_plugin.networks.table import NETWORKS, NetworkConfig, NetworkEntry

__all__ = ["NETWORKS", "Activation", "InputShape", "NetworkConfig", "NetworkEntry"]
