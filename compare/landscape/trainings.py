"""Landscapes of trainings: which are drawn, what they are called, and what is kept of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from abscert_plugin.errors import ConfigError
from abscert_plugin.folders import writing_in
from compare.landscape.stored_landscape import LANDSCAPES, DrawnNetwork, LandscapeRecord
from compare.plans.plan import read_plan
from compare.results.stored_run import TRAINING, State, stored_runs_of

_UNITS: Final = {"weights": "step, norms of the filters", "inputs": "step, pixel scale"}
_SPANS: Final = {"weights": 0.5, "inputs": 0.1}
_FOLDER: Final = "folder"


@final
@dataclass(frozen=True, slots=True)
class DrawnTraining:
    """A training that is drawn.

    Args:
        folder: with its checkpoint.
        run: the run's key, or the folder's name.
    """

    folder: Path
    run: str


@final
@dataclass(frozen=True, slots=True)
class LandscapeOptions:
    """What to draw.

    Args:
        title: what the picture shows.
        space: `weights` or `inputs`.
        span: how far to each side; None takes the space's own.
        points: places along each direction, odd and at least 3.
        limit: the first so many test images.
        seed: of the directions.
        data_dir: where the data set's files are; `$ABSCERT_DATA` where None.
    """

    title: str
    space: str
    span: float | None
    points: int
    limit: int
    seed: int
    data_dir: Path | None


def of_plan(plan: str, results: Path) -> tuple[tuple[DrawnTraining, ...], str, int]:
    """Return the trainings of a plan's runs that are done, the plan's title, and how many runs are not done.

    Raises:
        ConfigError: if the plan cannot be read, or none of its runs is done.
    """
    read = read_plan(plan)
    held = stored_runs_of(read.runs(), results)
    done = tuple(DrawnTraining(one.folder / TRAINING, one.run.key) for one in held if one.state is State.DONE)
    if not done:
        raise ConfigError(f"no run of {plan} is done in {results}; `abscert compare run {plan} --out {results}` first")
    return done, read.title, len(held) - len(done)


def trainings(folders: Sequence[Path]) -> tuple[DrawnTraining, ...]:
    """Return the trainings in folders: each that of a training, or that of a run in a results folder."""
    return tuple(DrawnTraining(_training(folder), folder.name) for folder in folders)


def _training(folder: Path) -> Path:
    inner = folder / TRAINING
    return inner if inner.is_dir() else folder


def picture_in(results: Path, stem: str) -> Path:
    """Return where a picture goes in a results folder, and make the folder.

    Raises:
        ConfigError: if the name is not that of a file, or the folder cannot be made.
    """
    folder = results / LANDSCAPES
    if Path(stem).name != stem:
        raise ConfigError(f"expected a --name without folders, got {stem!r}")
    with writing_in(folder, ConfigError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{stem}.png"


def draw_landscapes(
    chosen: Sequence[DrawnTraining], asked: LandscapeOptions, picture: Path, on_done: Callable[[str], None]
) -> LandscapeRecord:
    """Draw trainings side by side, and return what is kept beside the picture.

    Args:
        chosen: the trainings.
        asked: what to draw.
        picture: where it goes.
        on_done: told the name of each network that is done.

    Raises:
        ConfigError: if they are of several data sets, a value has no meaning, or the picture cannot be written.
        CheckpointError: if a folder holds no training.
        DataError: if the data set is not there.
    """
    import torch  # here, since the command line starts without it

    from abscert_plugin.data import Split, load_data
    from abscert_plugin.training.run import restore
    from compare.landscape.loss_plane import Landscape, input_landscape, weight_landscape
    from compare.landscape.picture import draw

    restored = [restore(one.folder) for one in chosen]
    sets = sorted({str(checkpoint.description["data"]) for *_, checkpoint in restored})
    if len(sets) > 1:
        raise ConfigError(f"expected trainings on one data set, got {' and '.join(sets)}; draw each by itself")
    _, height, _ = restored[0][1].image_shape
    size = height if sets[0] == _FOLDER else None  # other data sets have a size of their own
    data = load_data(sets[0], Split.TEST, asked.data_dir, size).first(asked.limit)
    images, labels = torch.from_numpy(data.all_pixels()), torch.from_numpy(data.labels)
    of = {"weights": weight_landscape, "inputs": input_landscape}[asked.space]
    span = _SPANS[asked.space] if asked.span is None else asked.span
    methods = [str(checkpoint.description["method"]) for *_, checkpoint in restored]
    cells = [None if grid is None else grid.cells for _, _, grid, _ in restored]
    called = _names(chosen, methods, cells)
    found: dict[str, Landscape] = {}
    for name, (network, _, grid, _) in zip(called, restored, strict=True):
        found[name] = of(network, grid, images, labels, span, asked.points, asked.seed)
        on_done(name)
    draw(found, _UNITS[asked.space], picture)
    middle = asked.points // 2
    networks = tuple(
        DrawnNetwork(
            name=name,
            run=one.run,
            method=method,
            cells=count,
            loss=float(found[name].losses[middle, middle]),
            curvature=found[name].curvature,
        )
        for name, one, method, count in zip(called, chosen, methods, cells, strict=True)
    )
    return LandscapeRecord(
        title=f"{asked.title}: in {asked.space}",
        space=asked.space,
        unit=_UNITS[asked.space],
        data=data.name,
        images=len(data),
        span=span,
        steps=tuple(float(step) for step in next(iter(found.values())).steps),
        seed=asked.seed,
        networks=networks,
    )


def _names(chosen: Sequence[DrawnTraining], methods: Sequence[str], cells: Sequence[int | None]) -> list[str]:
    """Return what each network is called: method and d, with the run where that would not tell them apart."""
    plain = [
        f"{method}, d = 0" if count is None else f"{method}, d = {2 / count:.4g}"
        for method, count in zip(methods, cells, strict=True)
    ]
    alike = Counter(plain)
    return [name if alike[name] == 1 else f"{name}, {one.run}" for name, one in zip(plain, chosen, strict=True)]
