"""Records of interleaved timings, and what they come to: seconds of each method, and its speed-up; no torch here."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from pathlib import Path
from typing import Final, Literal, final

import msgspec

from abscert_plugin.errors import RecordError
from abscert_plugin.files import TEXT_LIMIT, converted, read_bytes, read_json
from abscert_plugin.records import digest_of
from abscert_plugin.wording import plain_words
from compare.plans.planned_run import Run

TIMES: Final = "times"
SETTING: Final = "times.json"
ROWS: Final = "times.jsonl"
REFERENCE: Final = "abstrain"
"""The method that speed-ups are of: a ratio of 5 says that another method takes five times as long."""
_KEY_LENGTH: Final = 16


class Kind(StrEnum):
    """What is timed.

    `TRAINING`: an epoch. `VERIFICATION`: the test set by one pass, as the paper has it: a forward pass on the claim
    `cell`, or one bound on the claim `ball`. `SEARCH`: the test set on the claim `ball` by all steps of the verifier.
    `TOTAL`: an epoch and a `VERIFICATION`, as the paper's total speed-up adds them; it is computed, not timed.
    """

    TRAINING = "training"
    VERIFICATION = "verification"
    SEARCH = "search"
    TOTAL = "total"


@final
class Subject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A method that is timed.

    Args:
        run: its run of the plan.
        batch_size: images of a training step.
        claim: what one pass of its verification decides, `cell` or `ball`; None where the method has no bound.
        verified_by: that pass, in words.
    """

    run: Run
    batch_size: int
    claim: str | None
    verified_by: str


@final
class Setting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is timed on what: the content of times.json.

    Args:
        data: name of the data set.
        network: name of the network.
        seed: of the weights, and of the order of the methods in a round.
        subjects: the methods.
        steps: training steps of a block.
        images: test images of a block of verification.
        search_images: those of a block of search; 0 leaves it out.
        training_images: images of the whole training split.
        test_images: images of the whole test split.
        device: the machine, in words.
        versions: of this project and of the libraries that took part.
        schema: version of this layout.
    """

    data: str
    network: str
    seed: int
    subjects: tuple[Subject, ...]
    steps: int
    images: int
    search_images: int
    training_images: int
    test_images: int
    device: str
    versions: dict[str, str]
    schema: Literal[1]

    @property
    def key(self) -> str:
        """What its folder is called: a hash of all of the above, so that nothing else is ever added to its rows."""
        value = msgspec.to_builtins(self)
        for subject in value["subjects"]:
            subject["run"] = msgspec.convert(subject["run"], Run).key
        return digest_of(value)[:_KEY_LENGTH]

    @property
    def title(self) -> str:
        """The setting in a few words."""
        run = self.subjects[0].run
        return f"{self.data} {self.network}, radius {run.radius} {run.radius_scale}"

    def kinds(self, subject: Subject) -> tuple[Kind, ...]:
        """Return what is timed of a method in every round, in this order."""
        asked = {Kind.TRAINING: True, Kind.VERIFICATION: subject.claim is not None, Kind.SEARCH: self.search_images > 0}
        return tuple(kind for kind, is_asked in asked.items() if is_asked)

    def count(self, kind: Kind) -> int:
        """Return how many steps or images a block has."""
        return {Kind.TRAINING: self.steps, Kind.VERIFICATION: self.images, Kind.SEARCH: self.search_images}[kind]

    def units(self, subject: Subject, kind: Kind) -> int:
        """Return how many steps an epoch has, or images the test set."""
        return ceil(self.training_images / subject.batch_size) if kind is Kind.TRAINING else self.test_images

    def note(self, subject: Subject, kind: Kind) -> str:
        """Return how a figure was measured, in words."""
        if kind is Kind.TRAINING:
            return (
                f"{self.steps} steps of {subject.batch_size} images a round, spread evenly over the method's schedule, "
                f"times {self.units(subject, kind):,} steps an epoch; validation is not counted"
            )
        if kind is Kind.TOTAL:
            return "an epoch and one pass over the test set, added"
        of = f"{self.count(kind):,} images a round, times {self.test_images:,} images"
        if kind is Kind.SEARCH:
            return f"claim ball: all steps of the verifier, at most {subject.run.timeout:g} s an image; {of}"
        return f"claim {subject.claim}: {subject.verified_by}; {of}"


@final
class TimedBlock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One block: some steps or images of one method, timed as a whole.

    Args:
        round: number of its round, from 0; a round has every block of every method once.
        place: the method's place in the order of the round, from 0.
        method: title of the method.
        kind: what was timed.
        count: training steps, or test images.
        seconds: wall-clock time of them all.
        load: the machine's load average of the last minute, at the end of the block; None where it tells none.
        schema: version of this row's layout.
    """

    round: int
    place: int
    method: str
    kind: Kind
    count: int
    seconds: float
    load: float | None
    schema: Literal[1]


@final
@dataclass(frozen=True, slots=True)
class TimeSummary:
    """What the rounds of a setting say of one method: medians over rounds, and their quartiles.

    Args:
        key: of the setting; only figures of one key were measured side by side.
        data: name of the data set.
        network: name of the network.
        method: title of the method: its name, and the options that it was given.
        run: its run of the plan.
        kind: what was timed.
        claim: what was decided, `cell` or `ball`; None for training.
        seconds: median of an epoch, of the whole test set, or of both.
        low: first quartile.
        high: third quartile.
        ratio: median over rounds of these seconds divided by those of `abstrain` in the same round; None without it.
        ratio_low: first quartile of the same.
        ratio_high: third quartile.
        rounds: number of rounds.
        load: median of the load average; None where the machine tells none.
        device: the machine, in words.
        versions: of this project and of the libraries.
        note: how the figure was measured, in words.
    """

    key: str
    data: str
    network: str
    method: str
    run: Run
    kind: Kind
    claim: str | None
    seconds: float
    low: float
    high: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    rounds: int
    load: float | None
    device: str
    versions: Mapping[str, str]
    note: str


def read_times(results: Path) -> tuple[TimeSummary, ...]:
    """Return what the timings of a results folder come to, setting by setting; nothing where there are none.

    A round that is not whole does not count.

    Raises:
        RecordError: if a file cannot be read, or is of another schema.
    """
    found: list[TimeSummary] = []
    for path in sorted((results / TIMES).glob(f"*/{SETTING}")):
        setting = read_setting(path)
        found += summarise_times(setting, whole_rounds(setting, read_blocks(path.with_name(ROWS))))
    return tuple(found)


def read_setting(path: Path) -> Setting:
    """Return the content of a times.json.

    Raises:
        RecordError: if it cannot be read, or is of another schema.
    """
    return converted(read_json(path), Setting, f"{path} is not a times.json of schema 1")


def read_blocks(path: Path) -> tuple[TimedBlock, ...]:
    """Return the rows of a times.jsonl, in order; none where there is no file, and a half last line is left out.

    Raises:
        RecordError: if it cannot be read, or a line is not a row of this schema.
    """
    lines = read_bytes(path, TEXT_LIMIT).split(b"\n")[:-1] if path.exists() else []
    return tuple(_block(path, number, line) for number, line in enumerate(lines, start=1))


def _block(path: Path, number: int, line: bytes) -> TimedBlock:
    try:
        return msgspec.json.decode(line, type=TimedBlock)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        fault = plain_words(error)
        raise RecordError(f"{path}, line {number}: expected a timing of schema 1: {fault}") from error


def whole_rounds(setting: Setting, blocks: Sequence[TimedBlock]) -> tuple[TimedBlock, ...]:
    """Return the rows of the rounds that have every block of every method, once."""
    wanted = Counter((one.run.method_title, kind) for one in setting.subjects for kind in setting.kinds(one))
    there: defaultdict[int, Counter[tuple[str, Kind]]] = defaultdict(Counter)
    for block in blocks:
        there[block.round][block.method, block.kind] += 1
    return tuple(block for block in blocks if there[block.round] == wanted)


def summarise_times(setting: Setting, blocks: Sequence[TimedBlock]) -> Iterator[TimeSummary]:
    """Yield a summary for every kind and method; none where there is no round.

    Args:
        setting: the setting.
        blocks: rows of whole rounds.
    """
    if not blocks:
        return
    loads = [block.load for block in blocks if block.load is not None]
    seconds = {one.run.method_title: _by_round(setting, one, blocks) for one in setting.subjects}
    reference = next((seconds[one.run.method_title] for one in setting.subjects if one.run.method == REFERENCE), None)
    for kind in Kind:
        for subject in setting.subjects:
            own = seconds[subject.run.method_title].get(kind)
            if own is None:
                continue
            low, median, high = _quartiles(own.values())
            ratios: tuple[float | None, ...] = (None, None, None)
            if reference is not None and kind in reference:
                ratios = _quartiles(own[number] / reference[kind][number] for number in own)
            yield TimeSummary(
                key=setting.key,
                data=setting.data,
                network=setting.network,
                method=subject.run.method_title,
                run=subject.run,
                kind=kind,
                claim={Kind.TRAINING: None, Kind.SEARCH: "ball"}.get(kind, subject.claim),
                seconds=median,
                low=low,
                high=high,
                ratio=ratios[1],
                ratio_low=ratios[0],
                ratio_high=ratios[2],
                rounds=len(own),
                load=statistics.median(loads) if loads else None,
                device=setting.device,
                versions=setting.versions,
                note=setting.note(subject, kind),
            )


def _by_round(setting: Setting, subject: Subject, blocks: Iterable[TimedBlock]) -> Mapping[Kind, Mapping[int, float]]:
    """Return a method's seconds of an epoch and of the test set, by kind and round."""
    found: dict[Kind, dict[int, float]] = {}
    for block in blocks:
        if block.method == subject.run.method_title:
            scaled = block.seconds / block.count * setting.units(subject, block.kind)
            found.setdefault(block.kind, {})[block.round] = scaled
    if Kind.VERIFICATION in found:
        passes = found[Kind.VERIFICATION]
        found[Kind.TOTAL] = {number: value + passes[number] for number, value in found[Kind.TRAINING].items()}
    return found


def _quartiles(values: Iterable[float]) -> tuple[float, float, float]:
    found = list(values)
    if len(found) == 1:
        return found[0], found[0], found[0]
    low, median, high = statistics.quantiles(found, n=4, method="inclusive")
    return low, median, high
