"""Train classifiers on pixel intervals, export them as ONNX, and verify the ONNX file by proofs and by running it.

    import abscert_plugin as abscert

    verdicts = abscert.verify(model, images, labels, radius=0.1)

Nothing heavy is imported before it is needed: each name below is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from abscert_plugin.errors import AbscertError

if TYPE_CHECKING:
    from abscert_plugin.api.advising import advise as advise
    from abscert_plugin.api.data import load_data as load_data
    from abscert_plugin.api.exporting import export as export
    from abscert_plugin.api.exporting import wrap as wrap
    from abscert_plugin.api.guarding import Answers as Answers
    from abscert_plugin.api.guarding import Guard as Guard
    from abscert_plugin.api.guarding import guard as guard
    from abscert_plugin.api.modules import torch_module as torch_module
    from abscert_plugin.api.trained import Epoch as Epoch
    from abscert_plugin.api.trained import Trained as Trained
    from abscert_plugin.api.training import train as train
    from abscert_plugin.api.tuning import Tuning as Tuning
    from abscert_plugin.api.tuning import tune as tune
    from abscert_plugin.api.verdicts import ImageVerdict as ImageVerdict
    from abscert_plugin.api.verdicts import Verdicts as Verdicts
    from abscert_plugin.api.verifying import verify as verify
    from abscert_plugin.engines.processes import Processes as Processes
    from abscert_plugin.engines.ray_cluster import Cluster as Cluster
    from abscert_plugin.grid import Grid as Grid

__version__ = "0.1.0"

_LAZY: Final = {
    "Answers": "abscert_plugin.api.guarding",
    "Cluster": "abscert_plugin.engines.ray_cluster",
    "Epoch": "abscert_plugin.api.trained",
    "Grid": "abscert_plugin.grid",
    "Guard": "abscert_plugin.api.guarding",
    "ImageVerdict": "abscert_plugin.api.verdicts",
    "Processes": "abscert_plugin.engines.processes",
    "Trained": "abscert_plugin.api.trained",
    "Tuning": "abscert_plugin.api.tuning",
    "Verdicts": "abscert_plugin.api.verdicts",
    "advise": "abscert_plugin.api.advising",
    "export": "abscert_plugin.api.exporting",
    "guard": "abscert_plugin.api.guarding",
    "load_data": "abscert_plugin.api.data",
    "torch_module": "abscert_plugin.api.modules",
    "train": "abscert_plugin.api.training",
    "tune": "abscert_plugin.api.tuning",
    "verify": "abscert_plugin.api.verifying",
    "wrap": "abscert_plugin.api.exporting",
}
"""Where each public name is defined."""

__all__ = [
    "AbscertError",
    "Answers",
    "Cluster",
    "Epoch",
    "Grid",
    "Guard",
    "ImageVerdict",
    "Processes",
    "Trained",
    "Tuning",
    "Verdicts",
    "__version__",
    "advise",
    "export",
    "guard",
    "load_data",
    "torch_module",
    "train",
    "tune",
    "verify",
    "wrap",
]

if not TYPE_CHECKING:  # a type checker is to report names that are not there

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value  # so that this is asked once
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
