"""Interleaved timings: in every round each method trains steps and verifies images, in an order drawn anew."""

import os
import random
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from itertools import groupby
from pathlib import Path
from typing import Final, TypeAlias, final

import msgspec

from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.errors import ConfigError, RecordError
from abscert_plugin.files import write_json, write_whole
from abscert_plugin.folders import writing_in
from abscert_plugin.lirpa.compat import lirpa_version
from abscert_plugin.records import drop_half_line
from abscert_plugin.training.machine import choose_device, describe_device, library_versions
from compare.plans.planned_run import Run
from compare.timing.time_records import (
    ROWS,
    SETTING,
    TIMES,
    Kind,
    Setting,
    TimedBlock,
    read_blocks,
    whole_rounds,
)
from compare.timing.workload import Workload, subject_of, workloads

_CPU_FACTS: Final = Path("/proc/cpuinfo")
_encoder: Final = msgspec.json.Encoder()
_SCRATCH: Final = "scratch"  # checkpoints and ONNX files of the networks that are timed

OnBlock: TypeAlias = Callable[[str, int], None]
"""Told what is at work, and how many blocks have ended since it was last told."""


@final
@dataclass(frozen=True, slots=True)
class Amounts:
    """How much is timed.

    Args:
        rounds: of all methods.
        steps: training steps of a block, spread evenly over the schedule: the radius has risen, and each bound counts,
            in that share of them in which it does in a whole training.
        images: test images of a block of verification.
        search_images: test images of a block of search, on networks that are trained already; 0 leaves it out.

    Raises:
        ConfigError: if a number has no meaning.
    """

    rounds: int
    steps: int
    images: int
    search_images: int

    def __post_init__(self) -> None:
        for name in ("rounds", "steps", "images"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected --{name} of at least 1, got {getattr(self, name)}")
        if self.search_images < 0:
            raise ConfigError(f"expected --search-images of at least 0, got {self.search_images}")


@final
@dataclass(frozen=True, slots=True)
class Timing:
    """A setting that is to be timed.

    Args:
        setting: the setting.
        data: the splits.
        folder: where its rows go.
        rounds: how many are wanted.
    """

    setting: Setting
    data: Mapping[Split, DataSet]
    folder: Path
    rounds: int

    @property
    def blocks_per_round(self) -> int:
        """Number of blocks of a round."""
        return sum(len(self.setting.kinds(subject)) for subject in self.setting.subjects)


def timings(runs: Sequence[Run], amounts: Amounts, results: Path, data_dir: Path | None) -> tuple[Timing, ...]:
    """Return the settings of a plan: its methods on one data set, network, printed radius and seed, by one protocol.

    A radius is that of its printed figure, whatever the scale: the paper's tables pair methods so. Its protocol trains
    on the whole training file, with what others hold out for validation.

    Raises:
        ConfigError: if a setting has a method twice.
        DataError: if a file of a data set is missing or corrupt.
    """

    def place(run: Run) -> tuple[str, int, str, str, int, str]:
        return run.data, run.image_size or 0, run.network, run.radius, run.seed, run.protocol

    found = []
    loaded: dict[tuple[str, int], Mapping[Split, DataSet]] = {}
    for (name, size, network, _, seed, protocol), group in groupby(sorted(runs, key=place), key=place):
        chosen = tuple(group)
        titles = [run.method_title for run in chosen]
        twice = next((title for title in titles if titles.count(title) > 1), None)
        if twice is not None:
            raise ConfigError(
                f"expected each method once for {name} {network}, got {twice} {titles.count(twice)} times; "
                "a plan to be timed has one number of cells, one activation and one scale"
            )
        if (name, size) not in loaded:
            loaded[name, size] = {split: load_data(name, split, data_dir, size or None) for split in Split}
        data = loaded[name, size]
        tests = len(data[Split.TEST])
        seen = (Split.TRAIN, Split.VALIDATION) if protocol == "paper" else (Split.TRAIN,)
        setting = Setting(
            data=name,
            network=network,
            seed=seed,
            subjects=tuple(subject_of(run) for run in chosen),
            steps=amounts.steps,
            images=min(amounts.images, tests),
            search_images=min(amounts.search_images, tests),
            training_images=sum(len(data[split]) for split in seen),
            test_images=tests,
            device=_machine(),
            versions=_versions(),
            schema=1,
        )
        found.append(Timing(setting, data, results / TIMES / setting.key, amounts.rounds))
    return tuple(found)


def measure(timing: Timing, results: Path, on_block: OnBlock) -> None:
    """Time every method in every round that is not there yet.

    Before the first of them every method has one round that does not count: libraries are loaded and graphs traced in
    it. A kill loses the round in progress; the same call goes on from there.

    Args:
        timing: what to time.
        results: folder of the runs, whose networks a search takes.
        on_block: told of the progress.

    Raises:
        AbscertError: if a method cannot train, a file cannot be written, or a search has no trained network.
    """
    setting = timing.setting
    log = RoundLog(timing.folder, setting)
    missing = [number for number in range(timing.rounds) if number not in log.rounds]
    on_block(setting.title, (timing.rounds - len(missing)) * timing.blocks_per_round)
    if not missing:
        return
    scratch = timing.folder / _SCRATCH
    _remove(scratch)  # what a killed one has left
    try:
        work = []
        for number, subject in enumerate(setting.subjects):
            on_block(f"{setting.title}: warm-up of {subject.run.method_title}", 0)
            own = workloads(setting, subject, timing.data, results, scratch / str(number))
            for kind in own:
                if kind is not Kind.TRAINING:  # one block of that is behind it
                    own[kind]()
            work.append(own)
        for number in missing:
            log.append(_round(setting, work, number, on_block))
    finally:
        _remove(scratch)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # on a system that holds open files, the next timing removes it


def _round(
    setting: Setting, work: Sequence[Mapping[Kind, Workload]], number: int, on_block: OnBlock
) -> tuple[TimedBlock, ...]:
    blocks = []
    for place, which in enumerate(order_of(setting, number)):
        subject = setting.subjects[which]
        for kind in setting.kinds(subject):
            on_block(f"{setting.title}, round {number + 1}: {kind} of {subject.run.method_title}", 0)
            seconds = work[which][kind]()
            blocks.append(
                TimedBlock(
                    round=number,
                    place=place,
                    method=subject.run.method_title,
                    kind=kind,
                    count=setting.count(kind),
                    seconds=seconds,
                    load=_load(),
                    schema=1,
                )
            )
            on_block(setting.title, 1)
    return tuple(blocks)


def order_of(setting: Setting, number: int) -> tuple[int, ...]:
    """Return the order of a setting's methods in a round: drawn from its seed and the round's number alone."""
    order = list(range(len(setting.subjects)))
    random.Random(f"{setting.seed} {number}").shuffle(order)  # noqa: S311 - no secret
    return tuple(order)


@final
class RoundLog:
    """The rows of a setting on disk; a round is added whole, so that a kill loses no more than the one in progress.

    Rows of a round that is not whole, which a full disk may leave, are dropped.

    Args:
        folder: of the setting.
        setting: what is timed.

    Raises:
        RecordError: if the folder cannot be written, or a row in it cannot be read.
    """

    def __init__(self, folder: Path, setting: Setting) -> None:
        self._path = folder / ROWS
        with writing_in(folder):
            folder.mkdir(parents=True, exist_ok=True)
            drop_half_line(self._path)
        write_json(folder / SETTING, msgspec.to_builtins(setting))
        there = read_blocks(self._path)
        whole = whole_rounds(setting, there)
        if whole != there:
            write_whole(self._path, lambda part: part.write_bytes(_encoder.encode_lines(whole)))
        self.rounds: frozenset[int] = frozenset(block.round for block in whole)

    def append(self, blocks: Iterable[TimedBlock]) -> None:
        """Add the rows of a round, and hand them to the operating system.

        Raises:
            RecordError: if the file cannot be written; the rounds before stay as they are.
        """
        try:
            with self._path.open("ab") as file:
                file.write(_encoder.encode_lines(blocks))
        except OSError as error:
            raise RecordError(f"cannot write {self._path}: {error.strerror}; the rounds before are kept") from error


def _machine() -> str:
    """Return the machine in words, with its processor's name where the system tells it."""
    named = describe_device(choose_device("auto"))
    with suppress(OSError):
        lines = _CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
        return f"{named}, {name}" if name else named
    return named


def _versions() -> dict[str, str]:
    found = {name: str(value) for name, value in library_versions().items()}  # torch has a class of its own
    found["onnxruntime"] = version(packages_distributions()["onnxruntime"][0])
    with suppress(ConfigError):  # only some methods need it
        found["auto-lirpa"] = lirpa_version()
    return found


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):  # not every system tells it
        return None
