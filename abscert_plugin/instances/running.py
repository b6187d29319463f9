"""Running one instance in a process of its own, which is ended where it takes too long or too much memory."""

import gzip
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, final

from abscert_plugin.files import open_file
from abscert_plugin.instances.listing import PACKED, Instance
from abscert_plugin.instances.rows import OF_VERDICTS, Result, Row

_HELD: Final = "from abscert_plugin.engines.leash import end_with_parent; end_with_parent()"
COMMAND: Final = (sys.executable, "-P", "-c", f"{_HELD}; from abscert_plugin.cli import main; main()")
"""`abscert`, of this very interpreter, which ends with the process that runs it, however that one ends."""
GRACE: Final = 5.0
"""Seconds beyond its time-out after which a process is ended."""
_LOOK_EVERY: Final = 0.05  # seconds between two looks at a process
_SHARE: Final = 0.9  # of the memory that is free, which a process may take
_MOST_TEXT: Final = 2**28  # bytes of what a process prints
_NETWORK: Final = re.compile(r"\(\s*declare-network\s+([^\s()]+)")
_NAME: Final = "network"  # where the query names none
_HEAD: Final = 2**20  # bytes of a query in which it says what its network is called
_KILOBYTE: Final = 1024


@final
@dataclass(frozen=True, slots=True)
class Ran:
    """What came out of an instance, and the input that satisfies it, as the process has printed it; empty for none."""

    row: Row
    assignment: str


@final
@dataclass(frozen=True, slots=True)
class _Ending:
    """How a process ended: its status, its times, what it printed, and why it was ended; empty where it was not."""

    status: int
    seconds: float
    cpu_seconds: float | None
    out: str
    err: str
    reason: str


def run_instance(instance: Instance, memory: int | None = None, command: Sequence[str] = COMMAND) -> Ran:
    """Decide an instance by `abscert verify` in a process of its own.

    Whatever becomes of the process is a row: one that is ended, dies or prints something else has the result
    `timeout` or `error`. An answer that comes after the time is no answer.

    Args:
        instance: what is decided.
        memory: bytes that the process may take; None for nine tenths of what is free when it starts.
        command: what stands in front of `verify`.
    """
    arguments = ["verify", str(instance.query_file), "--network", f"{_network_name(instance)}={instance.network_file}"]
    ending = _run([*command, *arguments, "--timeout", repr(instance.timeout)], instance.timeout + GRACE, memory)
    result, reason, assignment = _read(ending, instance.timeout)
    row = row_of(instance, result, reason, round(ending.seconds, 3), ending.cpu_seconds)
    return Ran(row, assignment if result is Result.SAT else "")


def row_of(instance: Instance, result: Result, reason: str, seconds: float, cpu_seconds: float | None) -> Row:
    """Return an instance's row, as long as no counterexample of it is written."""
    return Row(
        category=instance.category,
        network=instance.network,
        query=instance.query,
        timeout=instance.timeout,
        result=result,
        reason=reason,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        counterexample=None,
        schema=1,
    )


def _network_name(instance: Instance) -> str:
    """Return what the query calls its network; anything where it has no name for it."""
    path, head = instance.query_file, b""
    with suppress(OSError, EOFError, zlib.error), open_file(path) as raw:  # the process says what is wrong with it
        head = (gzip.GzipFile(fileobj=raw) if path.suffix == PACKED else raw).read(_HEAD)
    match = _NETWORK.search(head.decode("utf-8", "replace"))
    return _NAME if match is None else match[1]


def _read(ending: _Ending, timeout: float) -> tuple[Result, str, str]:
    """Return the result, why nothing was decided, and what follows the verdict."""
    if ending.reason:
        return Result.TIMEOUT if ending.seconds > timeout else Result.ERROR, ending.reason, ""
    if ending.status < 0:
        return Result.ERROR, f"it died of signal {-ending.status}, as it does where memory ends", ""
    verdict, _, rest = ending.out.partition("\n")
    result = OF_VERDICTS.get(verdict.strip())
    if ending.status or result is None:
        said = _last(ending.err, "error: ") or f"exit status {ending.status}, and no verdict"
        return Result.ERROR, said, ""
    if result.is_decided and ending.seconds > timeout:
        return Result.TIMEOUT, f"it said {result} after {ending.seconds:.1f} seconds", ""
    return result, "" if result.is_decided else _last(ending.err, "note: "), rest


def _last(text: str, head: str) -> str:
    """Return what follows the last head of a line."""
    found = [line.removeprefix(head) for line in text.splitlines() if line.startswith(head)]
    return found[-1] if found else ""


def _run(command: Sequence[str], seconds: float, memory: int | None) -> _Ending:
    """Run a command until it ends, its time is up, or it takes too much memory; what it started ends with it."""
    most = free_memory() if memory is None else memory
    reason, start, cpu = "", time.monotonic(), _cpu_of_children()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # the command is this interpreter with words of ours, or what a caller chose: S603 is about others
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=out, stderr=err, start_new_session=True
        )
        try:
            _offer_first(process.pid)
            while (status := _wait(process)) is None:
                if time.monotonic() - start > seconds:
                    reason = f"ended after {time.monotonic() - start:.1f} seconds"
                elif most is not None and (taken := _taken(process.pid)) > most:
                    reason = f"ended since it took {taken / 2**30:.1f} GiB of memory, of {most / 2**30:.1f} that it may"
                if reason:
                    break
        finally:
            _end(process)
        took = time.monotonic() - start
        cpu_took = None if cpu is None else round((_cpu_of_children() or cpu) - cpu, 3)
        return _Ending(status or 0, took, cpu_took, _text(out), _text(err), reason)


def _wait(process: "subprocess.Popen[bytes]") -> int | None:
    try:
        return process.wait(_LOOK_EVERY)
    except subprocess.TimeoutExpired:
        return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _cpu_of_children() -> float | None:
    """Return the seconds that ended processes of this one took on all cores; None where the system does not say."""
    try:
        import resource  # POSIX alone has it
    except ModuleNotFoundError:
        return None
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _offer_first(process: int) -> None:
    """Let the system, where memory ends, end this process before the one that runs it."""
    with suppress(OSError):
        Path(f"/proc/{process}/oom_score_adj").write_text("1000")


def _taken(process: int) -> int:
    """Return the bytes of memory that a process holds; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def free_memory() -> int | None:
    """Return nine tenths of the bytes of memory that are free here, or of this control group; None where unsaid."""
    found = []
    with suppress(OSError, ValueError):
        text = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        found += [int(text[1]) * _KILOBYTE] if text else []
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most, taken = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        cache = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
        found.append(most - taken + (int(cache[1]) if cache else 0))
    return int(_SHARE * max(0, min(found))) if found else None


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_MOST_TEXT).decode("utf-8", "replace")
