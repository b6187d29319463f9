"""What tells one way to train from another, and what it is called on pictures."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from compare.plans.planned_run import Run

# what a name says beside method, cells and options, where runs of one such name differ in it
_PARTS: Final[Mapping[str, Callable[[Run], str]]] = MappingProxyType(
    {
        "radius": lambda run: f"trained for {float(run.trained_for.pixel):.4g}",
        "epochs": lambda run: "" if run.epochs is None else f"{run.epochs} epochs",
        "batch_size": lambda run: "" if run.batch_size is None else f"batch {run.batch_size}",
        "learning_rate": lambda run: "" if run.learning_rate is None else f"rate {run.learning_rate:g}",
        "timeout": lambda run: f"{run.timeout:g} s an image",
        "solver": lambda run: "" if run.solver is None else f"solver {run.solver}",
        "arithmetic": lambda run: "" if run.arithmetic is None else f"for {run.arithmetic}",
        "limit": lambda run: "" if run.limit is None else f"first {run.limit:,} images",
        "ball_limit": lambda run: "" if run.ball_limit is None else f"balls of the first {run.ball_limit:,} images",
    }
)


def variant(run: Run) -> str:
    """Return what runs share that differ in nothing but the seed and what is verified."""
    return msgspec.structs.replace(run, seed=0, certify=(), claims=()).key


def setting(run: Run) -> str:
    """Return where runs can be compared: data set, network and protocol, in words."""
    activation = "" if run.activation is None else f" {run.activation}"
    size = "" if run.image_size is None else f" {run.image_size}\N{MULTIPLICATION SIGN}{run.image_size}"
    return f"{run.data}{size}, {run.network}{activation}, protocol {run.protocol}"


def names(runs: Iterable[Run]) -> Mapping[str, str]:
    """Return what each variant is called among runs of one setting: no longer than tells them apart."""
    known = {variant(run): run for run in runs}
    return {
        key: _name(run, [other for other in known.values() if _base(other) == _base(run)]) for key, run in known.items()
    }


def _name(run: Run, alike: list[Run]) -> str:
    said = {field: {part(other) for other in alike} for field, part in _PARTS.items()}
    parts = [_PARTS[field](run) for field, texts in said.items() if len(texts) > 1]
    return ", ".join([_base(run), *[part for part in parts if part]])


def _base(run: Run) -> str:
    cells = "" if run.cells is None else f", {run.cells} {'cell' if run.cells == 1 else 'cells'}"
    return f"{run.method}{cells} {run.given_options}".strip()
