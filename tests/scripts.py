"""Scripts and commands with as few processes as can be, since starting one takes seconds."""

import io
import runpy
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final

import pytest

ONE_AFTER_THE_OTHER: Final = """
import json, sys
from abscert_plugin.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = words
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
    print(end="\\0")
"""
"""Commands in one process, which takes seconds to start; what each prints ends in a zero."""


def run_script(path: Path, *arguments: object, folder: Path | None = None) -> str:
    """Return what a script prints that is run as `python PATH ARGUMENTS`, but in this process.

    Args:
        path: the script.
        arguments: of its command line.
        folder: where it is run; None is here.
    """
    out = io.StringIO()
    script = path.resolve()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), redirect_stdout(out):
        warnings.simplefilter("default")
        patch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        patch.setattr(sys, "path", [str(script.parent), *sys.path])
        patch.chdir(folder or Path.cwd())
        runpy.run_path(str(script), run_name="__main__")
    return out.getvalue()
