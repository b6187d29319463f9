"""Build what is published and look at it: a source distribution, the wheel out of it, and that of adapters/lirpa."""

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLAIN = 0o644
QUICKLY = ("--no-compile",)  # what is imported is compiled then


def run(*words: object, cwd: Path) -> str:
    """Return what a command prints; the whole check ends where it fails."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, words)], cwd=cwd, env=variables, text=True, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"error: {shlex.join(map(str, words))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def environment(folder: Path) -> Path:
    """Make a fresh environment and return its Python."""
    # links: a copied python is still open for writing in what another thread starts meanwhile, and cannot be run
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    return folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"


def pip(python: Path, *words: object, cwd: Path) -> str:
    """Run pip in an environment."""
    return run(python, "-m", "pip", "--quiet", "--disable-pip-version-check", *words, cwd=cwd)


def expect(found: object, wanted: object, what: str) -> None:
    """End the check where something is not as it should be."""
    if found != wanted:
        sys.exit(f"error: {what}: expected {wanted}, got {found}")


def build_and_look(folder: Path) -> str:
    """Build what is published into the folder's `dist`, and hold the wheels of tree and source against each other."""
    python = environment(folder / "tools")
    pip(python, "install", *QUICKLY, "build", "twine", "setuptools>=77", cwd=folder)
    build = (python, "-m", "build", "--no-isolation")
    run(*build, "--outdir", folder / "dist", ROOT, cwd=folder)
    run(*build, "--wheel", "--outdir", folder / "tree", ROOT, cwd=folder)
    run(*build, "--wheel", "--outdir", folder / "dist", ROOT / "adapters" / "lirpa", cwd=folder)
    ours, adapter, source = (
        next((folder / "dist").glob(name)) for name in ("abscert_plugin*.whl", "abscert_lirpa*.whl", "*.tar.gz")
    )
    from_tree = (folder / "tree" / ours.name).read_bytes()
    expect(ours.read_bytes() == from_tree, True, "the wheel out of the source distribution is that of the tree")
    run(python, "-m", "twine", "check", "--strict", ours, adapter, source, cwd=folder)
    for wheel, root in ((ours, "abscert_plugin"), (adapter, "abscert_lirpa")):
        with zipfile.ZipFile(wheel) as archive:
            expect({entry.external_attr >> 16 & 0o777 for entry in archive.infolist()}, {PLAIN}, f"modes of {wheel}")
            roots = {name.split("/")[0] for name in archive.namelist()}
            expect({name for name in roots if not name.endswith(".dist-info")}, {root}, f"top level of {wheel}")
    with tarfile.open(source) as archive:
        files = [entry for entry in archive.getmembers() if entry.isfile()]
    expect({entry.mode for entry in files}, {PLAIN}, f"modes of {source}")
    shipped = {entry.name.split("/", 1)[1] for entry in files} - {"PKG-INFO"}
    if (ROOT / ".git").exists():
        tracked = set(run("git", "ls-files", cwd=ROOT).splitlines())
        new = set(run("git", "ls-files", "--others", "--exclude-standard", cwd=ROOT).splitlines())
        expect(sorted(tracked - shipped), [], "files that git has and the source distribution has not")
        expect(sorted(shipped - tracked - new), [], "files of the source distribution that git ignores")
    return f"wheels and source distribution ({len(shipped)} files) are whole"


def main(into: Path) -> None:
    """Build, look, and put what was built into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        print(build_and_look(Path(folder)))
        shutil.copytree(Path(folder) / "dist", into, dirs_exist_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
