"""The command line: parses, calls one function, prints. No other module of this package prints."""

from abscert_plugin.cli.app import main

__all__ = ["main"]
