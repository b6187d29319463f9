"""onnxruntime for browsers: fetched once, kept, and never taken for what it is not."""

import base64
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_server import running

from abscert_plugin.errors import DataError
from abscert_plugin.report import web_runtime
from abscert_plugin.report.web_runtime import SCRIPT, VERSION, WASM, cache_file, put_runtime

NOWHERE = "http://127.0.0.1:9"  # nobody listens there


def package() -> bytes:
    """Return a package of npm's form."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in (SCRIPT, "other.js", WASM):
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return file.getvalue()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the package's file in a registry of this machine, and make that package the pinned one."""
    content = package()
    file = tmp_path / "registry" / "onnxruntime-web" / "-" / f"onnxruntime-web-{VERSION}.tgz"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    monkeypatch.setattr(web_runtime, "SHA512", base64.b64encode(hashlib.sha512(content).digest()).decode())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with running(tmp_path / "registry") as server:
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/")
        yield file


def test_it_is_fetched_once_and_then_needs_no_network(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert put_runtime(tmp_path / "one" / "web") == (tmp_path / "one" / "web" / SCRIPT, tmp_path / "one" / "web" / WASM)
    assert cache_file().read_bytes() == registry.read_bytes()
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", NOWHERE)
    put_runtime(tmp_path / "two")
    assert {path.name: path.read_text() for path in (tmp_path / "two").iterdir()} == {SCRIPT: SCRIPT, WASM: WASM}


def test_a_kept_file_that_was_changed_is_fetched_anew(registry: Path, tmp_path: Path) -> None:
    cache_file().parent.mkdir(parents=True)
    cache_file().write_bytes(b"changed")
    put_runtime(tmp_path / "web")
    assert cache_file().read_bytes() == registry.read_bytes()


def test_a_package_that_is_not_the_pinned_one_is_refused_unread(registry: Path, tmp_path: Path) -> None:
    registry.write_bytes(registry.read_bytes()[:-1] + b"!")
    with pytest.raises(DataError, match="its sha512 is another"):
        put_runtime(tmp_path / "web")
    assert not (tmp_path / "web").exists()
    assert not cache_file().exists()


def test_a_cache_that_cannot_be_written_is_gone_without(registry: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    put_runtime(tmp_path / "web")
    assert (tmp_path / "web" / WASM).read_text() == WASM


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (NOWHERE, f"cannot fetch {NOWHERE}/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz: .*refused"),
        ("file:///tmp", "expected .NPM_CONFIG_REGISTRY as the address of a registry"),
        ("http://127.0.0.1:no", "cannot fetch"),
    ],
)
def test_without_a_network_one_line_says_how(
    registry: Path, tmp_path: Path, address: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", address)
    with pytest.raises(DataError, match=words) as caught:
        put_runtime(tmp_path / "web")
    assert "\n" not in str(caught.value)


def test_a_registry_without_the_package_is_named(registry: Path, tmp_path: Path) -> None:
    registry.unlink()
    with pytest.raises(DataError, match=r"cannot fetch .*Not Found"):
        put_runtime(tmp_path / "web")


def test_the_cache_lies_where_the_system_has_it() -> None:
    name = f"onnxruntime-web-{VERSION}.tgz"
    assert cache_file({"XDG_CACHE_HOME": "/caches"}) == Path("/caches/abscert") / name
    for relative in ("", "caches"):
        assert cache_file({"XDG_CACHE_HOME": relative}) == Path.home() / ".cache" / "abscert" / name
