#!/usr/bin/env bash
# Regenerates the locked versions that `make setup` installs under:
#
#   requirements/lock.sh python3.11 python3.12
#
# A Python 3.11 writes py311.txt, any newer one py312.txt: jax 0.11 and later
# need Python 3.12, so one lock cannot serve both. Give the oldest Python a
# lock is for. Each lock is what pip resolves into an empty environment.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

lock() {
  local python=$1 name out
  name=$("$python" "$root/requirements/lock_name.py")
  out=$scratch/$name
  "$python" -m venv "$scratch/venv-$name"
  # Built from a copy: a build leaves files beside the sources.
  local copy=$scratch/src-$name
  mkdir "$copy"
  cp -r "$root"/{setup.py,pyproject.toml,README.md,LICENSE,perceiver_jax} \
    "$copy"
  "$scratch/venv-$name/bin/python" -m pip install --quiet "$copy[test]"
  {
    echo "# Made by requirements/lock.sh with Python" \
      "$("$python" -c 'import platform; print(platform.python_version())')."
    echo "# Do not edit: change setup.py and run requirements/lock.sh again."
    "$scratch/venv-$name/bin/python" -m pip freeze \
      --exclude perceiver_jax --exclude pip --exclude setuptools
  } > "$out"
  check "$out"
  mv "$out" "$root/requirements/$name"
  echo "wrote requirements/$name"
}

check() {
  if grep -nE '@ |^-e |^(tensorflow|torch|tf[_-]nightly)(==|[_-]cpu)' "$1"; then
    echo "error: the lines above may not be in a lock" >&2
    return 1
  fi
}

if [[ $# -eq 0 ]]; then
  echo "usage: requirements/lock.sh PYTHON..." >&2
  exit 2
fi
for python in "$@"; do
  lock "$python"
done
