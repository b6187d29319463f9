"""Plans: which data set, network, method, radius and seed are trained and verified, as TOML."""

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Final, final

import msgspec

from abscert_plugin.choices import expected_one_of
from abscert_plugin.claim import Arithmetic, Claim, Radius, RadiusScale
from abscert_plugin.errors import ConfigError
from abscert_plugin.files import read_text
from abscert_plugin.wording import plain_words
from compare.plans.planned_run import PROTOCOLS, Options, Run

_HERE: Final = __name__.rpartition(".")[0]  # a wheel has this package below ours


@final
class RunGrid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a plan: every combination of its lists is a run.

    Args:
        options: a method's name to its options.
        cells: number of cells of the methods on cells; the others have none.
        beyond: whether these runs are left out, since they are beyond the plan's budget: tables name what they would
            take, where an estimate is kept.
        all others: as in `Run`.
    """

    data: list[str]
    network: list[str]
    method: list[str]
    radius: list[str]
    activation: list[str] = []
    options: dict[str, Options] = {}
    radius_scale: RadiusScale = RadiusScale.PIXEL
    certify: list[str] = []
    cells: list[int] = []
    seed: list[int] = msgspec.field(default_factory=lambda: [0])
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    claims: list[str] = msgspec.field(default_factory=lambda: ["ball"])
    timeout: float = 1.0
    solver: str | None = None
    limit: int | None = None
    ball_limit: int | None = None
    image_size: int | None = None
    arithmetic: Arithmetic | None = None
    beyond: bool = False


@final
class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a TOML file says.

    Args:
        title: one line.
        grid: its parts.
        include: names of plans whose runs are part of it.
        protocol: one of `PROTOCOLS`.
        folders: number of training and test images of data whose entry does not tell, for estimates of the time.
    """

    title: str
    grid: list[RunGrid] = []
    include: list[str] = []
    protocol: str = "sound"
    folders: dict[str, tuple[int, int]] = {}

    def runs(self) -> tuple[Run, ...]:
        """Return the runs in order, each once.

        Raises:
            ConfigError: if a value has no meaning, a name is unknown, a method on cells has no number of cells, or
                cannot train a network that it is paired with.
        """
        return self._runs(beyond=False)

    def runs_beyond(self) -> tuple[Run, ...]:
        """Return the runs that the plan names and leaves out.

        Raises:
            ConfigError: as `runs`.
        """
        return self._runs(beyond=True)

    def _runs(self, *, beyond: bool) -> tuple[Run, ...]:
        if self.protocol not in PROTOCOLS:
            raise ConfigError(expected_one_of("the protocol", PROTOCOLS, self.protocol))
        from compare.plans.feasibility import check_run  # torch is imported here, not by reading a plan

        found: dict[str, Run] = {}
        for name in self.include:
            plan = read_plan(name)
            if plan.include:
                raise ConfigError(f"the plan {name} includes others: it cannot be included itself")
            found |= {run.key: run for run in plan._runs(beyond=beyond)}
        parts = [part for part in self.grid if part.beyond is beyond]
        found |= {run.key: run for part in parts for run in _expanded(part, self.protocol)}
        for run in found.values():
            check_run(run)
        return tuple(found.values())


def read_plan(name: str) -> Plan:
    """Return a plan: one that is shipped, by its name, or that of a file.

    Raises:
        ConfigError: if it is not there, not TOML, or has an unknown key or a value of another type.
    """
    path = Path(name)
    if path.suffix == ".toml":
        text = read_text(path, error=ConfigError)
    elif name in shipped_plans():
        text = files(_HERE).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise ConfigError(expected_one_of("a .toml file, or a plan", shipped_plans(), name))
    try:
        return msgspec.convert(tomllib.loads(text), Plan)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        known = (*Plan.__struct_fields__, *RunGrid.__struct_fields__)
        raise ConfigError(f"the plan {name} cannot be read: {plain_words(error, known)}") from error


def shipped_plans() -> Sequence[str]:
    """Return the names of the plans that are shipped."""
    entries = files(_HERE).iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))


def _expanded(part: RunGrid, protocol: str) -> list[Run]:
    from abscert_plugin.training.methods import METHODS
    from abscert_plugin.verification.solvers import OWN

    runs = []
    activations: Sequence[str | None] = part.activation or [None]
    axes = product(part.data, part.network, activations, part.method, part.radius, part.seed)
    for data, network, activation, method, radius, seed in axes:
        for text in (radius, *part.certify):
            Radius.parse(text, part.radius_scale)
        options = part.options.get(method, {})
        takes_intervals = METHODS.named(method).create(Radius.parse(radius, part.radius_scale), options).takes_intervals
        if takes_intervals and not part.cells:
            raise ConfigError(f"expected cells in the part of the plan that has {method}: it trains on cells")
        counts: Sequence[int | None] = part.cells if takes_intervals else [None]
        for cells in counts:
            runs.append(
                Run(
                    data=data,
                    network=network,
                    activation=activation,
                    method=method,
                    options=dict(sorted(options.items())),
                    radius=radius,
                    radius_scale=part.radius_scale,
                    certify=tuple(part.certify or [radius]),
                    cells=cells,
                    seed=seed,
                    epochs=part.epochs,
                    batch_size=part.batch_size,
                    learning_rate=part.learning_rate,
                    claims=_claims(part.claims, takes_intervals),
                    timeout=part.timeout,
                    solver=None if part.solver == OWN else part.solver,
                    limit=part.limit,
                    ball_limit=part.ball_limit,
                    image_size=part.image_size,
                    arithmetic=part.arithmetic,
                    protocol=protocol,
                )
            )
    return runs


def _claims(claims: Sequence[str], takes_intervals: bool) -> tuple[str, ...]:
    unknown = [claim for claim in claims if claim not in ("cell", "ball")]
    if unknown:
        raise ConfigError(expected_one_of("the claims", Claim, unknown[0]))
    return tuple(claim for claim in claims if takes_intervals or claim == "ball")
