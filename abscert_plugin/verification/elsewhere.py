"""Images decided by other processes: batches are sent out and rows come back, as they are decided.

Whoever decides writes nothing: rows, counterexamples and evidence are written where the run is. A batch whose workers
die is sent out again, its images then one by one; an image of which they die still is `unknown`, with the reason.
"""

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, final

import msgspec
import numpy as np

from abscert_plugin.claim import Claim, Verdict
from abscert_plugin.data import Batch, DataSet
from abscert_plugin.engines.job import Engine, Job, Task, Work
from abscert_plugin.errors import VerifierError
from abscert_plugin.records import SCHEMA_VERSION, Record, RunInfo, need_alike
from abscert_plugin.verification.decision import Decided, Decider, Decisions
from abscert_plugin.verification.evidence import Evidence

_OF_THE_MACHINE = ("threads",)  # what a worker's configuration says of itself, as the run says of all


@final
class SentArray(msgspec.Struct, frozen=True):
    """An array as it is sent."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes

    @classmethod
    def of(cls, array: np.ndarray) -> "SentArray":
        """Return an array as it is sent."""
        return cls(array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())

    def array(self) -> np.ndarray:
        """Return the array."""
        return np.frombuffer(self.content, dtype=self.dtype).reshape(self.shape).copy()


@final
class SentBatch(msgspec.Struct, frozen=True):
    """Images as they are stored, with their places and labels."""

    index: tuple[int, ...]
    labels: tuple[int, ...]
    images: SentArray
    levels: int


@final
class SentDecided(msgspec.Struct, frozen=True):
    """A row, with what belongs to it."""

    record: Record
    counterexample: SentArray | None
    evidence: Evidence | None


_batches = msgspec.msgpack.Decoder(SentBatch)
_rows = msgspec.msgpack.Decoder(tuple[SentDecided, ...])


@final
@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Other processes that decide.

    Args:
        engine: who hands batches out to them.
        opens: `module:function` that opens the decider on a worker; it answers by `deciding`.
        shared: returns what that function is given, which tells the run's facts (`facts`).
    """

    engine: Engine
    opens: str
    shared: Callable[[Mapping[str, Any]], bytes]

    def described(self, info: RunInfo) -> RunInfo:
        """Return what a run says of itself where these decide."""
        threads = {"threads": self.engine.cpus} if "threads" in info.configuration else {}
        return replace(info, device=f"{info.device}; {self.engine}", configuration={**info.configuration, **threads})

    def decided(self, info: RunInfo, data: DataSet, batches: Iterable[Batch]) -> Decisions:
        """Decide batches, and yield the rows of each as they come.

        Args:
            info: what the run says of itself.
            data: the data set of the images.
            batches: the images.

        Raises:
            VerifierError: if a worker refuses a batch, as this process would: the message is its own.
            EngineError: if workers cannot be started or reached.
        """
        job = Job(self.opens, self.shared(facts(info)))
        lost: list[Batch] = []
        with closing(self._round(job, data, batches)) as ends:
            for end in ends:
                if isinstance(end, _Lost):
                    lost.append(end.batch)
                else:
                    yield end
        # of a batch whose workers died, one image may be to blame
        with closing(self._round(job, data, (one for batch in lost for one in _singles(batch)))) as ends:
            for end in ends:
                yield [_unknown(end, info)] if isinstance(end, _Lost) else end

    def _round(
        self, job: Job, data: DataSet, batches: Iterable[Batch]
    ) -> Generator["list[Decided] | _Lost", None, None]:
        """Hand batches out once; yield the rows of each, or that it is lost."""
        out: dict[int, Batch] = {}

        def tasks() -> Iterator[Task]:
            for place, batch in enumerate(batches):
                out[place] = batch
                yield Task(place, _packed(batch, data.levels), f"images from {batch.index[0]}")

        with closing(self.engine.hand_out(job, tasks(), lambda: None)) as answers:
            for answer in answers:
                batch = out.pop(answer.place)
                if answer.refusal:
                    raise VerifierError(answer.refusal)
                yield _Lost(batch, answer.loss) if answer.loss else _unpacked(answer.content)


@final
@dataclass(frozen=True)
class _Lost:
    """A batch of which there are no rows, and why."""

    batch: Batch
    reason: str


def facts(info: RunInfo) -> Mapping[str, Any]:
    """Return what whoever decides has to have alike, as run.json holds it."""
    configuration = {key: value for key, value in info.configuration.items() if key not in _OF_THE_MACHINE}
    stored: Mapping[str, Any] = json.loads(json.dumps({"versions": info.versions, "configuration": configuration}))
    return stored


def deciding(decider: Decider, own: RunInfo, expected: Mapping[str, Any]) -> Work:
    """Return what decides batches that are sent, on a worker.

    Args:
        decider: the claim, and the way to decide it, opened here.
        own: what a run here would say of itself.
        expected: the facts of the run that sends them.

    Raises:
        ConfigError: if they are not those of this worker: it would give other rows.
    """
    need_alike(expected, facts(own), "images")

    def decide(content: bytes) -> bytes:
        batch = _batches.decode(content)
        labels, index = np.array(batch.labels, dtype=np.int64), np.array(batch.index, dtype=np.int64)
        pixels = batch.images.array() / np.float32(batch.levels)
        return msgspec.msgpack.encode([_sent(item) for item in decider.decide(pixels, labels, index)])

    return decide


def _sent(item: Decided) -> SentDecided:
    counterexample = None if item.counterexample is None else SentArray.of(item.counterexample)
    return SentDecided(item.record, counterexample, item.evidence)


def _packed(batch: Batch, levels: int) -> bytes:
    index, labels = tuple(batch.index.tolist()), tuple(batch.labels.tolist())
    return msgspec.msgpack.encode(SentBatch(index, labels, SentArray.of(batch.images), levels))


def _unpacked(content: bytes) -> list[Decided]:
    return [
        Decided(item.record, None if item.counterexample is None else item.counterexample.array(), item.evidence)
        for item in _rows.decode(content)
    ]


def _singles(batch: Batch) -> Iterator[Batch]:
    for row in range(len(batch.index)):
        part = slice(row, row + 1)
        yield Batch(batch.index[part], batch.images[part], batch.labels[part])


def _unknown(lost: _Lost, info: RunInfo) -> Decided:
    """Return the row of an image that nobody lived to decide."""
    claim, asked = info.configuration["claim"], info.configuration
    is_ball = claim == Claim.BALL
    return Decided(
        Record(
            index=int(lost.batch.index[0]),
            label=int(lost.batch.labels[0]),
            prediction=-1,
            claim=claim,
            radius=float(Fraction(asked["radius"])) if is_ball else None,
            radius_scale=asked["radius_scale"] if is_ball else None,
            inputs=asked["inputs"] if is_ball else None,
            verdict=Verdict.UNKNOWN,
            reason=lost.reason,
            method="none",
            reachable_log2=None,
            margin=None,
            seconds=0.0,
            counterexample=None,
            schema=SCHEMA_VERSION,
        )
    )
