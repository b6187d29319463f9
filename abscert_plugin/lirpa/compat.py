"""auto_LiRPA 0.3 on current releases of torch and numpy; releases that need nothing are left as they are.

Version 0.3, the newest on PyPI, was written for torch < 1.13. What it looks for and no longer finds is put back
before it is imported; nothing that exists is replaced.
"""

import logging
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from abscert_plugin.errors import ConfigError

_ADVICE: Final = (
    "auto_LiRPA is not installed; run `pip install 'abscert-plugin[lirpa]'`, "
    "or `pip install ./adapters/lirpa` in a checkout"
)
_ADAPTER: Final = "abscert-lirpa"
"""The distribution that the extra `lirpa` names: auto_LiRPA 0.3 in a folder of its own (adapters/lirpa)."""


def lirpa_version() -> str:
    """Return the installed version of auto_LiRPA.

    Raises:
        ConfigError: if it is not installed; the message says how to.
    """
    for name in ("auto-LiRPA", "auto_LiRPA", _ADAPTER):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise ConfigError(_ADVICE)


@lru_cache(maxsize=1)
def load_lirpa() -> Any:
    """Return the module auto_LiRPA, made to run on the installed torch and numpy: a user's own before the extra's.

    Raises:
        ConfigError: if it is not installed.
    """
    _put_back_numpy_module()
    _put_back_opset_setter()
    _put_back_node_subscript()
    handlers = list(logging.getLogger().handlers)
    try:
        # 0.3 changes the process-wide filters when it is imported: what it then warns of is collected, and dropped
        with warnings.catch_warnings(record=True):
            _look_into_adapter()
            module = import_module("auto_LiRPA")
    except ModuleNotFoundError as error:
        if error.name == "auto_LiRPA":
            raise ConfigError(_ADVICE) from error
        raise ConfigError(f"auto_LiRPA needs the module {error.name}, which is not installed") from error
    logging.getLogger().handlers[:] = handlers  # it sends the log to stdout, where results go
    _accept_remove_duplicate(module.BoundedModule)
    return module


def _look_into_adapter() -> None:
    """Let auto_LiRPA be found in the distribution of the extra `lirpa`, behind every other place."""
    with suppress(ModuleNotFoundError):
        folder = str(import_module("abscert_lirpa").FOLDER)
        if folder not in sys.path:
            sys.path.append(folder)


def _put_back_numpy_module() -> None:
    """`numpy.lib.arraysetops` left with numpy 2; 0.3 imports `isin` from it."""
    if "numpy.lib.arraysetops" in sys.modules or hasattr(np.lib, "arraysetops"):
        return
    module = types.ModuleType("numpy.lib.arraysetops")
    module.isin = np.isin  # type: ignore[attr-defined]
    sys.modules["numpy.lib.arraysetops"] = module


def _exporter_globals() -> Any:
    try:
        return import_module("torch.onnx._internal.torchscript_exporter._globals").GLOBALS
    except ModuleNotFoundError:  # torch before 2.9
        return import_module("torch.onnx._globals").GLOBALS


def _put_back_opset_setter() -> None:
    """`_set_opset_version` left torch; 0.3 calls it before it optimises a traced graph."""
    exporter = _exporter_globals()
    exporter.autograd_inlining = False  # else tracing a custom operator raises IndexError
    helper: Any = import_module("torch.onnx.symbolic_helper")  # not what `torch.onnx` has under this name
    if hasattr(helper, "_set_opset_version"):
        return

    def set_version(opset: int) -> None:
        exporter.export_onnx_opset_version = opset

    helper._set_opset_version = set_version


def _put_back_node_subscript() -> None:
    """Reading a traced node's attribute by subscript left torch; 0.3 reads all attributes so."""
    node: Any = torch._C.Node
    if hasattr(node, "__getitem__"):
        return

    def attribute(self: Any, name: str) -> Any:
        return getattr(self, self.kindOf(name))(name)

    node.__getitem__ = attribute


def _accept_remove_duplicate(bounded_module: Any) -> None:
    """`Module.named_parameters` passes `remove_duplicate` since torch 2.0; 0.3 overrides what it calls without it."""
    own = bounded_module.__dict__.get("_named_members")
    if own is None or "remove_duplicate" in own.__code__.co_varnames:
        return

    def named_members(
        self: nn.Module, get_members_fn: Any, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[Any]:
        del remove_duplicate  # 0.3 lists its own members, each once
        yield from own(self, get_members_fn, prefix, recurse)

    bounded_module._named_members = named_members
