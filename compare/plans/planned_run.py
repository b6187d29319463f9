"""One run of a plan: what is trained and verified, and all that its result depends on."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeAlias, final

import msgspec

from abscert_plugin.claim import Arithmetic, Claim, Radius, RadiusScale
from abscert_plugin.records import digest_of

_KEY_LENGTH: Final = 16
Options: TypeAlias = dict[str, str]
PROTOCOLS: Final = ("sound", "paper", "cpu")
"""`sound`; `paper`, which is the paper's own; `cpu`, the paper's networks and radii in few epochs. Figures of two
protocols are kept apart."""


@final
@dataclass(frozen=True, slots=True)
class Question:
    """One of the verifications of a run.

    Args:
        claim: what is decided.
        radius: of the balls; None for the claim `cell`.
        limit: only the first so many test images; None takes all.
    """

    claim: Claim
    radius: Radius | None
    limit: int | None


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
        solver: who decides the claim `ball`; None is our own verifier.
        limit: only the first so many test images; None takes all.
        ball_limit: the same for the claim `ball` alone.
        image_size: side to resize the images of a folder to; None keeps them.
        arithmetic: what verdicts are to hold for; None: any order where the graph can be read, else this runtime.
        protocol: one of `PROTOCOLS`.
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
    solver: str | None = None
    limit: int | None = None
    ball_limit: int | None = None
    image_size: int | None = None
    arithmetic: Arithmetic | None = None
    protocol: str = "sound"

    @property
    def key(self) -> str:
        """What the run's folder is called: a hash of all of the above that is not its default."""
        defaults = _defaults()
        chosen = {name: value for name, value in as_mapping(self).items() if getattr(self, name) != defaults[name]}
        return digest_of(chosen)[:_KEY_LENGTH]

    @property
    def trained_for(self) -> Radius:
        """The ball to train for."""
        return Radius.parse(self.radius, self.radius_scale)

    @property
    def questions(self) -> Mapping[str, Question]:
        """What is decided of the trained network, by the name of the folder inside the run's that holds the answers."""
        found = {}
        for claim in map(Claim, self.claims):
            if claim is Claim.CELL:
                found[f"verify-{claim}"] = Question(claim, None, self.limit)
                continue
            limits = [limit for limit in (self.limit, self.ball_limit) if limit is not None]
            for text in self.certify:
                radius = Radius.parse(text, self.radius_scale)
                found[f"verify-{claim}-{text.replace('/', '_')}"] = Question(claim, radius, min(limits, default=None))
        return found

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


@cache
def _defaults() -> Mapping[str, Any]:
    return {field.name: field.default for field in msgspec.structs.fields(Run)}


def as_mapping(run: Run) -> Mapping[str, Any]:
    """Return a run as what JSON can hold."""
    value: Mapping[str, Any] = msgspec.to_builtins(run)
    return value
