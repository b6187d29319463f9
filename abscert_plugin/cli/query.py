"""VNN-LIB on the command line: `abscert verify QUERY.vnnlib`, `abscert check PROOF.json --query`, `abscert supports`.

What it prints and which options it takes is the solver interface of the VNN-LIB 2 standard: a verdict on stdout, then
the assignment, and everything else on stderr. An error is one line on stderr, with nothing on stdout and exit status 2.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import numpy as np
import typer

from abscert_plugin.choices import expected_one_of
from abscert_plugin.claim import QueryVerdict
from abscert_plugin.cli import manual
from abscert_plugin.cli.console import OUT, interruptible, print_json, say
from abscert_plugin.cli.progress import progress_bar, telling
from abscert_plugin.decimals import decimal
from abscert_plugin.errors import ConfigError, QueryError, RecordError
from abscert_plugin.files import read_json, write_whole
from abscert_plugin.folders import writing_in

if TYPE_CHECKING:
    from abscert_plugin.query.attack import Witness
    from abscert_plugin.query.network import Network
    from abscert_plugin.query.query import Query
    from abscert_plugin.query.reading import QueryFile

_FAILED: Final = 1
_MARGIN: Final = 1.0  # seconds of a query's time that are left for ending; whoever runs a solver may kill it
_GRACE: Final = 0.2  # seconds after which a step is stopped that does not look at the time
_OPSETS: Final = ("7", "21")  # 21 is the newest that the oldest onnxruntime which is taken, 1.20, knows
# torch is imported where it is needed alone: the command line starts without it


def _operators() -> list[str]:
    from abscert_plugin.bounds.proof.plan import RULES
    from abscert_plugin.graph.walk import MOVES

    return sorted({*RULES, *MOVES})


CAPABILITIES: Final[Mapping[str, Callable[[], list[str]]]] = MappingProxyType(
    {
        "--vnnlib-versions": lambda: ["1.0", "2.0"],
        "--onnx-opset-versions": lambda: list(_OPSETS),
        "--onnx-element-types": lambda: ["float32", "real"],
        "--onnx-operators": _operators,
        "--hidden-node-theories": lambda: ["NH"],
        "--multiple-input-output-theories": lambda: ["SIO"],
        "--multiple-network-theories": lambda: ["SNET"],
        "--multiple-node-comparison-theories": lambda: ["SNC"],
        "--arithmetic-complexity-theories": lambda: ["BND", "OUTC", "LIN", "POLY"],
        "--optimised-disjunctive-reasoning": lambda: ["true"],
        "--serialise-assignments": lambda: ["true"],
        "--unsat-proofs": lambda: ["true"],
    }
)
"""What the standard asks of solvers, and what is answered."""


def register(app: typer.Typer) -> None:
    """Add the subcommand `supports`."""
    app.command(
        "supports",
        epilog="abscert supports --onnx-operators",
        rich_help_panel=manual.VERIFY,
        context_settings={"ignore_unknown_options": True},
    )(supports)


def supports(
    capability: Annotated[list[str], typer.Argument(help=f"One of {', '.join(CAPABILITIES)}.")],
) -> None:
    """Say what VNN-LIB queries may ask, in the words of its standard."""
    unknown = [name for name in capability if name not in CAPABILITIES]
    if unknown:
        raise ConfigError(expected_one_of("a capability", CAPABILITIES, unknown[0]))
    for name in capability:
        typer.echo("\n".join(CAPABILITIES[name]()))


def verify_query(
    path: Path, networks: list[str], seconds: float, assignments: Path | None, proofs: Path | None
) -> None:
    """Decide a query, and print what came out.

    Args:
        path: the query.
        networks: what `--network` was given, NAME=FILE.
        seconds: the time that may be spent.
        assignments: folder for an answer's tensors; None where they are printed.
        proofs: where a proof of `unsat` goes.
    """
    begun = time.monotonic()  # before torch is imported
    from abscert_plugin.query.network import open_network
    from abscert_plugin.query.reading import read_query
    from abscert_plugin.query.solve import solve
    from abscert_plugin.query.unsat_proof import write_unsat_proof

    if not 0 < seconds < float("inf"):
        raise ConfigError(f"expected a time-out above 0 seconds, got {seconds}")
    for place in (assignments, None if proofs is None else proofs.parent):
        _make(place)
    end = begun + seconds - min(_MARGIN, seconds / 10)
    try:
        with (
            telling(f"deciding {path.name}", end) as tell,
            interruptible("nothing was written"),
            _stopped_after(end - time.monotonic()),
        ):
            query = read_query(path)
            network = open_network(_network_file(query, networks), query.query)
            outcome = solve(query.query, network, end - time.monotonic(), tell)
    except _TimeUp:
        typer.echo(QueryVerdict.TIMED_OUT)
        say("note: the time was up in the middle of a step")
        return
    typer.echo(outcome.verdict)
    say(outcome.reason and f"note: {outcome.reason}")
    say(_rounded(len(query.query.rounded)))
    if outcome.verdict is QueryVerdict.UNSAT and proofs is not None:
        write_unsat_proof(proofs, query, network, outcome.groups)
        say(f"proof: {proofs}")
    if outcome.answer is not None and assignments is None:
        typer.echo("\n".join(_printed(query.query, outcome.answer)))
    elif outcome.answer is not None and assignments is not None:
        _serialise(assignments, query.query, network, outcome.answer)


class _TimeUp(BaseException):  # no Exception: nothing that catches those is to catch it
    """The time is up."""


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Stop a block when its time is up, where the system has a signal for that: one step may take longer than all.

    The signal comes again and again: Python drops what is raised in a finalizer or in a callback of its collector.
    """
    is_up = is_done = False
    former_hook = sys.unraisablehook

    def stop(*_: object) -> None:
        nonlocal is_up
        if not is_done:
            is_up = True
            raise _TimeUp

    def dropped(what: "sys.UnraisableHookArgs") -> None:
        if what.exc_type is not _TimeUp:
            former_hook(what)

    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGALRM, stop)
    sys.unraisablehook = dropped
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.0) + _GRACE, _GRACE)
    try:
        yield
    except Exception as error:
        if is_up:  # what an import or a library's own code makes of it
            raise _TimeUp from error
        raise
    finally:
        is_done = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        sys.unraisablehook = former_hook


def check_proof(path: Path, model: Path, query_path: Path, as_json: bool) -> None:
    """Prove again what a proof of `unsat` says; exit status 1 where it does not hold."""
    from abscert_plugin.query.network import open_network
    from abscert_plugin.query.reading import read_query
    from abscert_plugin.query.unsat_proof import fault_of, read_unsat_proof

    stored = read_unsat_proof(path)
    query = read_query(query_path)
    network = open_network(model, query.query)
    total = sum(len(group.tree) for group in stored.groups)
    with progress_bar() as bar, interruptible("nothing was written"):
        task = bar.add_task(f"checking {path.name}", total=total, note="")
        fault = fault_of(stored, query, network, lambda count: bar.update(task, advance=count))
    if as_json:
        print_json({"holds": not fault, "fault": fault, "groups": len(stored.groups), "nodes": total})
    else:
        OUT.print(f"FAILED  {fault}" if fault else f"ok      {stored.says}", highlight=False, soft_wrap=True)
    if fault:
        raise typer.Exit(_FAILED)


def need_query(path: Path, fault: RecordError) -> NoReturn:
    """Say why a file is no certificate: it may be an unsat proof, which needs its query.

    Raises:
        ConfigError: if it is one.
        RecordError: the fault, if it is none.
    """
    with suppress(RecordError):
        if read_json(path).get("kind") == "abscert unsat proof":
            raise ConfigError(f"expected --query with the query that {path} refutes") from fault
    raise fault


def _network_file(query: "QueryFile", networks: list[str]) -> Path:
    """Return the file of the one network of a query.

    Raises:
        ConfigError: if what was given is not NAME=FILE.
        QueryError: if it is not one file for the network of the query.
    """
    pairs = []
    for given in networks:
        name, sign, file = given.partition("=")
        if not (name and sign and file):
            raise ConfigError(f"expected --network NAME=FILE, got {given!r}")
        pairs.append((name, file))
    asked = query.query.network
    if len(pairs) != 1 or asked not in (None, pairs[0][0]):
        wanted = "one network" if asked is None else f"one network {asked!r}"
        got = ", ".join(repr(name) for name, _ in pairs) or "none"
        raise QueryError(f"{query.path} is about {wanted}; expected --network {asked or 'NAME'}=FILE once, got {got}")
    return Path(pairs[0][1])


def _rounded(count: int) -> str:
    """Return a note that says how many inputs were read as the nearest float32; empty where none were."""
    if not count:
        return ""
    inputs = "1 input lies" if count == 1 else f"{count} inputs lie"
    return f"note: {inputs} between decimals with no float32 between them; these are read as the nearest float32"


def _make(folder: Path | None) -> None:
    """Make a folder before anything is decided, so that no verdict is lost for want of it."""
    if folder is None:
        return
    with writing_in(folder, advice="choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)


def _printed(query: "Query", answer: "Witness") -> list[str]:
    """Return the lines of an answer: as the standard has them, of version 1 as VNN-COMP has them."""
    tensors = [(query.input, answer.inputs), (query.output, answer.outputs)]
    if query.input.shape is None:
        pairs = [
            f"({it.name}_{place} {_number(value)})" for it, values in tensors for place, value in enumerate(values)
        ]
        return [("(" if not place else " ") + pair for place, pair in enumerate(pairs[:-1])] + [f" {pairs[-1]})"]
    lines = []
    for declared, values in tensors:
        sizes = ",".join(map(str, declared.shape or ()))
        lines += [f"{declared.name} {declared.kind} [{sizes}]", *map(_number, values)]
    return lines


def _number(value: Any) -> str:
    return decimal(float(value)) if isinstance(value, np.floating) else str(value)


def _serialise(folder: Path, query: "Query", network: "Network", answer: "Witness") -> None:
    from onnx import numpy_helper

    for declared, values, shape in (
        (query.input, answer.inputs, network.input_shape),
        (query.output, answer.outputs, network.output_shape),
    ):
        entries = values.astype(np.float64) if query.is_real else values
        content = numpy_helper.from_array(entries.reshape(shape), declared.name).SerializeToString()
        write_whole(folder / f"{declared.name}.pb", lambda part, content=content: part.write_bytes(content))  # type: ignore[misc]
    say(f"assignment: {folder}")
