"""From an operator to what writes the guard of a node."""

from typing import Final

from abscert_plugin.guards.affine_rules import AFFINE_RULES
from abscert_plugin.guards.moving_rules import MOVING_RULES
from abscert_plugin.guards.rising_rules import RISING_RULES

RULES: Final = {**AFFINE_RULES, **MOVING_RULES, **RISING_RULES}
