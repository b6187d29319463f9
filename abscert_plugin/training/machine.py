"""The machine that trains: which device of it, and what its results depend on."""

import os
import platform
from typing import Final

import numpy as np
import torch

import abscert_plugin
from abscert_plugin.choices import expected_one_of
from abscert_plugin.errors import ConfigError

_DEVICES: Final = ("auto", "cpu", "cuda")


def choose_device(name: str) -> torch.device:
    """Return the device of this name; `auto` takes CUDA where it is there.

    Raises:
        ConfigError: if the name is unknown or CUDA is not there.
    """
    if name not in _DEVICES:
        raise ConfigError(expected_one_of("a device", _DEVICES, name))
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("cuda was asked for, but torch sees no CUDA device here; use --device cpu or auto")
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """Return the machine that trains, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def library_versions() -> dict[str, str]:
    """Return the versions that a training's result depends on."""
    return {
        "abscert-plugin": abscert_plugin.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
