"""From an operator to what writes the guard of a node."""

from typing import Final

from abscert_plugin.guard.affine_rules import AFFINE_RULES
from abscert_plugin.guard.moving_rules import MOVING_RULES
from abscert_plugin.guard.rising_rules import RISING_RULES

RULES: Final = {**AFFINE_RULES, **MOVING_RULES, **RISING_RULES}
