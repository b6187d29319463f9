#!/bin/bash
# VNN-COMP, version 1 of its scripts: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULTS_FILE TIMEOUT
# The results file has one of sat, unsat, unknown, timeout and error in its first line; after sat the counterexample,
# ((X_0 number) ... (Y_0 number) ...). Why nothing was decided is on stderr. Exit status 0 wherever it was written.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ $# -ne 6 ] || [ "$1" != v1 ]; then
  echo "expected v1 CATEGORY ONNX VNNLIB RESULTS_FILE TIMEOUT, got '$*'" >&2
  exit 1
fi
network=$3 query=$4 results=$5 timeout=$6
abscert=${ABSCERT:-$here/.venv/bin/abscert}

[ -f "$network" ] || [ ! -f "${network%.gz}" ] || network=${network%.gz}
[ -f "$query" ] || [ ! -f "${query%.gz}" ] || query=${query%.gz}
[ -f "$network" ] || network=$network.gz
[ -f "$query" ] || query=$query.gz

part=$results.part
echo error > "$results"
if "$abscert" verify "$query" --network "network=$network" --timeout "$timeout" > "$part"; then
  sed '1s/^timed-out$/timeout/' "$part" > "$results"
fi
rm -f -- "$part"
