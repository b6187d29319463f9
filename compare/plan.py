"""Plans: which data set, network, method, radius and seed are trained and verified, as TOML."""

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import msgspec

from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.errors import ConfigError

_KEY_LENGTH: Final = 16
Options: TypeAlias = dict[str, str]


@final
class Run(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training and its verifications: all that the result depends on.

    Args:
        data: name of the data set.
        network: name of the network.
        activation: its activation function; None is the method's own.
        method: name of the method.
        options: the method's own options, as text.
        radius: the ball to train for, as text.
        radius_scale: the scale of all radii of the run.
        certify: radii of the claim `ball` that the network is verified at.
        cells: number of cells; None for methods on plain images.
        seed: of weights, order and augmentation.
        epochs, batch_size, learning_rate: of the loop; None is the data set's own.
        claims: the claims that are decided.
        timeout: seconds an image (claim `ball`).
        limit: only the first so many test images; None takes all.
        ball_limit: the same for the claim `ball` alone.
        image_size: side to resize the images of a folder to; None keeps them.
        protocol: `sound`, or `paper` for what follows the paper's protocol.
    """

    data: str
    network: str
    method: str
    radius: str
    activation: str | None = None
    options: Options = {}
    radius_scale: RadiusScale = RadiusScale.PIXEL
    certify: tuple[str, ...] = ()
    cells: int | None = None
    seed: int = 0
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    claims: tuple[str, ...] = ("ball",)
    timeout: float = 1.0
    limit: int | None = None
    ball_limit: int | None = None
    image_size: int | None = None
    protocol: str = "sound"

    @property
    def key(self) -> str:
        """What the run's folder is called: a hash of all of the above that is not its default."""
        defaults = {field.name: field.default for field in msgspec.structs.fields(self)}
        chosen = {name: value for name, value in as_mapping(self).items() if getattr(self, name) != defaults[name]}
        canonical = json.dumps(chosen, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:_KEY_LENGTH]

    @property
    def trained_for(self) -> Radius:
        """The ball to train for."""
        return Radius.parse(self.radius, self.radius_scale)

    @property
    def given_options(self) -> str:
        """The method's options as `name=value`, by name; empty where none was given."""
        return " ".join(f"{name}={value}" for name, value in sorted(self.options.items()))

    @property
    def method_title(self) -> str:
        """The method with the options that it was given."""
        return f"{self.method} {self.given_options}".strip()

    @property
    def title(self) -> str:
        """The run in a few words."""
        cells = "" if self.cells is None else f", {self.cells} cells"
        radius = f"radius {self.radius} {self.radius_scale}"
        return f"{self.data} {self.network} {self.method_title}{cells}, {radius}, seed {self.seed}"


@final
class Grid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a plan: every combination of its lists is a run.

    Args:
        options: a method's name to its options.
        cells: number of cells of the methods on cells; the others have none.
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
    limit: int | None = None
    ball_limit: int | None = None
    image_size: int | None = None


@final
class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a TOML file says.

    Args:
        title: one line.
        grid: its parts.
        include: names of plans whose runs are part of it.
        protocol: `sound`, or `paper`, whose figures are kept apart from those of the other.
    """

    title: str
    grid: list[Grid] = []
    include: list[str] = []
    protocol: str = "sound"

    def runs(self) -> tuple[Run, ...]:
        """Return the runs in order, each once.

        Raises:
            ConfigError: if a value has no meaning, a name is unknown, a method on cells has no number of cells, or
                cannot train a network that it is paired with.
        """
        if self.protocol not in ("sound", "paper"):
            raise ConfigError(f"expected the protocol sound or paper, got {self.protocol!r}")
        from compare.check import check_run  # torch is imported here, not by reading a plan

        found: dict[str, Run] = {}
        for name in self.include:
            plan = read_plan(name)
            if plan.include:
                raise ConfigError(f"the plan {name} includes others: it cannot be included itself")
            found |= {run.key: run for run in plan.runs()}
        found |= {run.key: run for part in self.grid for run in _expanded(part, self.protocol)}
        for run in found.values():
            check_run(run)
        return tuple(found.values())


def read_plan(name: str) -> Plan:
    """Return a plan: one that is shipped, by its name, or that of a file.

    Raises:
        ConfigError: if it is not there, not TOML, or has an unknown key or a value of another type.
    """
    path = Path(name)
    shipped = files("compare").joinpath("plans", f"{name}.toml")
    try:
        text = path.read_text(encoding="utf-8") if path.suffix == ".toml" else shipped.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(shipped_plans())
        raise ConfigError(f"expected the name of a plan ({known}) or a .toml file, got {name!r}: {error}") from error
    try:
        return msgspec.convert(tomllib.loads(text), Plan)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"the plan {name} cannot be read: {error}") from error


def shipped_plans() -> Sequence[str]:
    """Return the names of the plans that are shipped."""
    folder = files("compare").joinpath("plans")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _expanded(part: Grid, protocol: str) -> list[Run]:
    from abscert_plugin.training.methods import METHODS

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
                    limit=part.limit,
                    ball_limit=part.ball_limit,
                    image_size=part.image_size,
                    protocol=protocol,
                )
            )
    return runs


def _claims(claims: Sequence[str], takes_intervals: bool) -> tuple[str, ...]:
    unknown = [claim for claim in claims if claim not in ("cell", "ball")]
    if unknown:
        raise ConfigError(f"expected the claims cell or ball, got {unknown[0]!r}")
    return tuple(claim for claim in claims if takes_intervals or claim == "ball")


def as_mapping(run: Run) -> Mapping[str, Any]:
    """Return a run as what JSON can hold."""
    value: Mapping[str, Any] = msgspec.to_builtins(run)
    return value
