"""Instances decided by an engine's workers: files are sent out, and rows come back, which are written where the run is.

An instance whose worker dies is handed out again, and costs no other; one of which several die is an `error`.
"""

import platform
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, final

import msgspec

import abscert_plugin
from abscert_plugin.engines.job import Engine, Job, Task, Work
from abscert_plugin.errors import AbscertError, ConfigError
from abscert_plugin.instances.listing import Instance
from abscert_plugin.instances.rows import Result
from abscert_plugin.instances.running import COMMAND, Ran, row_of, run_instance
from abscert_plugin.records import need_alike

_OPENS: Final = "abscert_plugin.instances.elsewhere:running"
_LIBRARIES: Final = ("numpy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu")


@final
class BenchQuestion(msgspec.Struct, frozen=True):
    """What is asked about all instances.

    Args:
        versions: of the libraries, which every worker has to have alike.
        memory: bytes that the process of one may take; None for what is free where it runs.
        command: what stands in front of `verify`; each worker has its own `COMMAND`.
    """

    versions: Mapping[str, str]
    memory: int | None
    command: Sequence[str] = COMMAND


@final
class Sent(msgspec.Struct, frozen=True):
    """An instance as it is sent, with its files, each by its path below the folder that holds them.

    Args:
        instance: the instance, with the paths of the machine that it comes from.
        files: the network and what holds its tensors, below `network`; the query, below `query`.
    """

    instance: Instance
    files: Mapping[str, bytes]


_asked: Final = msgspec.msgpack.Decoder(BenchQuestion, dec_hook=lambda kind, value: kind(value))
_sent: Final = msgspec.msgpack.Decoder(Sent, dec_hook=lambda kind, value: kind(value))
_ran: Final = msgspec.msgpack.Decoder(Ran)


def own_versions() -> Mapping[str, str]:
    """Return the versions of what decides instances here."""
    versions = {"abscert-plugin": abscert_plugin.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def decided_elsewhere(
    engine: Engine, asked: BenchQuestion, instances: Sequence[Instance]
) -> Generator[tuple[Instance, Ran], None, None]:
    """Yield what comes out of each instance, as it comes; close it to stop all workers.

    Raises:
        ConfigError: if a worker is not as this process is.
        EngineError: if workers cannot be started or reached.
    """
    command = () if asked.command == COMMAND else asked.command
    tensors: dict[Path, Sequence[Path]] = {}
    job = Job(_OPENS, msgspec.msgpack.encode(BenchQuestion(asked.versions, asked.memory, command)))

    def tasks() -> Iterator[Task]:
        for place, instance in enumerate(instances):
            network = instance.network_file
            if network not in tensors:
                tensors[network] = _tensors(network)
            files = {**_below("query", [instance.query_file]), **_below("network", [network, *tensors[network]])}
            yield Task(place, msgspec.msgpack.encode(Sent(instance, files), enc_hook=str), instance.name)

    with closing(engine.hand_out(job, tasks(), lambda: None)) as answers:
        for answer in answers:
            if answer.refusal:
                raise ConfigError(answer.refusal)
            instance = instances[answer.place]
            yield instance, _lost(instance, answer.loss) if answer.loss else _ran.decode(answer.content)


def _tensors(network: Path) -> Sequence[Path]:
    """Return the files that hold a network's tensors; none of one that cannot be read: its process says why."""
    # here alone, since it is slow to import
    from abscert_plugin.artifact.model_file import external_locations, read_model

    try:
        return [network.parent / part for part in external_locations(read_model(network))]
    except AbscertError:
        return []


def _below(name: str, files: Sequence[Path]) -> Mapping[str, bytes]:
    """Return the contents of files by their paths, with the first one's folder called by a name."""
    found = {}
    for file in files:
        with suppress(OSError):  # the process says that it is not there
            found[f"{name}/{file.relative_to(files[0].parent)}"] = file.read_bytes()
    return found


def _lost(instance: Instance, reason: str) -> Ran:
    return Ran(row_of(instance, Result.ERROR, reason, 0.0, None), "")


def running(shared: bytes) -> Work:
    """Return what runs instances that are sent; an engine calls it once in each worker's process.

    Args:
        shared: a `BenchQuestion`.

    Raises:
        ConfigError: if this worker is not as the process that sends them: it might give other rows.
    """
    asked = _asked.decode(shared)
    need_alike({"versions": asked.versions}, {"versions": own_versions()}, "instances")
    return partial(_run, asked.memory, asked.command or COMMAND)


def _run(memory: int | None, command: Sequence[str], content: bytes) -> bytes:
    sent = _sent.decode(content)
    instance = sent.instance
    with tempfile.TemporaryDirectory(prefix="abscert-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for part, bytes_ in sent.files.items():
            path = folder / part
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes_)
        network, query = folder / "network" / instance.network_file.name, folder / "query" / instance.query_file.name
        ran = run_instance(replace(instance, network_file=network, query_file=query), memory, command)
    reason = ran.row.reason
    for here, there in ((network, instance.network_file), (query, instance.query_file)):
        reason = reason.replace(str(here), str(there))
    return msgspec.msgpack.encode(replace(ran, row=msgspec.structs.replace(ran.row, reason=reason)))
