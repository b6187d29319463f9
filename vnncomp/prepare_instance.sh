#!/bin/bash
# VNN-COMP, version 1 of its scripts: prepare_instance.sh v1 CATEGORY ONNX VNNLIB
# Unpacks what is packed by gzip, where its folder can be written: what stays packed is read as it is. Exit status 0
# where the instance is there; any other has it left out.
set -euo pipefail

if [ $# -ne 4 ] || [ "$1" != v1 ]; then
  echo "expected v1 CATEGORY ONNX VNNLIB, got '$*'" >&2
  exit 1
fi
for file in "$3" "$4"; do
  plain=${file%.gz}
  if [ ! -f "$plain" ] && [ -f "$plain.gz" ]; then
    part=$plain.part.$$
    if gzip -dc -- "$plain.gz" > "$part"; then
      mv -f -- "$part" "$plain"
    else
      rm -f -- "$part"
    fi
  fi 2> /dev/null
  if [ ! -f "$plain" ] && [ ! -f "$plain.gz" ]; then
    echo "there is no file $file" >&2
    exit 1
  fi
done
