"""auto_LiRPA 0.3 in a folder that only `abscert_plugin.lirpa` looks into."""

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent
"""What to put on the module path, so that `auto_LiRPA` is found."""
