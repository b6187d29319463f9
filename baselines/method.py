"""The table's row of a method, under the name that packages of the group `abscert.baselines` know it by."""

from abscert_plugin.training.method import MethodEntry as Entry
from abscert_plugin.training.method import is_method

__all__ = ["Entry", "is_method"]
