#!/bin/bash
# VNN-COMP, version 1 of its scripts: install_tool.sh v1
# Installs this tree, with onnxruntime for the CPU, into vnncomp/.venv; needs Python 3.11 or newer with its venv, which
# ABSCERT_PYTHON may name. Where ABSCERT names an `abscert`, the scripts take that, and nothing is installed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ "${1:-}" != v1 ]; then
  echo "expected v1, the version of the scripts, as first argument, got '${1:-}'" >&2
  exit 1
fi
if [ -z "${ABSCERT:-}" ]; then
  "${ABSCERT_PYTHON:-python3}" -m venv "$here/.venv"
  "$here/.venv/bin/python" -m pip install --quiet "$here/..[cpu]"
fi
"${ABSCERT:-$here/.venv/bin/abscert}" --version
