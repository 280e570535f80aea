#!/usr/bin/env bash
# Installs the project and its tests' packages into a virtual environment:
#
#   requirements/install.sh PYTHON VENV
#
# PYTHON creates VENV if it is not there; one that is there keeps its Python.
set -euo pipefail

python=$1
venv=$2
here=$(dirname "$0")

if ! command -v "$python" > /dev/null; then
  echo "error: there is no '$python' here; name a Python 3.11 or newer:" \
    "make setup PYTHON=/path/to/python3" >&2
  exit 1
fi
if ! "$venv/bin/python" -c "" > /dev/null 2>&1; then
  "$python" "$here/lock_name.py" > /dev/null
  "$python" -m venv --clear "$venv"
fi
lock=$("$venv/bin/python" "$here/lock_name.py") || {
  echo "error: run 'make clean' first: $venv keeps its Python" >&2
  exit 1
}
# Missing where creation was cut short, and in environments made by uv.
"$venv/bin/python" -m pip --version > /dev/null 2>&1 \
  || "$venv/bin/python" -m ensurepip > /dev/null
echo "installing perceiver_jax under requirements/$lock into $venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint "$here/$lock" --editable '.[test]'
"$venv/bin/python" -m pip check
