"""Damages files: their bytes, or the values in their JSON."""

import copy
import json
import random
from pathlib import Path
from typing import Any

_MAX_EDITS = 6
_BYTES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff" * 4, b"\0" * 8, b"[", b'"')
_VALUES = (
  None,
  True,
  0,
  -1,
  1,
  3,
  2**16,
  2**24,
  10**9,
  2**63,
  10**400,
  0.5,
  float("nan"),
  float("inf"),
  "",
  "x",
  "\ud800",
  "\x1b[2J\n",
  "x" * 5_000,
  [],
  {},
  [1, 2, 3],
  [[[]]],
  {"kind": "x"},
)
_LENGTH_BYTES = 8  # Of the header of a safetensors file.


def mutate(path: Path, rng: random.Random) -> None:
  """Damages a file, or one file of a folder or those in it, in place."""
  if path.is_dir():
    path = rng.choice(sorted(p for p in path.rglob("*") if p.is_file()))
  data = path.read_bytes()
  if path.suffix == ".json" and rng.random() < 0.8:
    changed = _mutate_json(data, rng)
  elif path.suffix == ".safetensors" and rng.random() < 0.7:
    changed = _mutate_header(data, rng)
  else:
    changed = _mutate_bytes(data, rng)
  path.write_bytes(changed)


def _mutate_bytes(data: bytes, rng: random.Random) -> bytes:
  changed = bytearray(data)
  # Most of what can go wrong is in the first bytes of a file.
  reach = len(data) if rng.random() < 0.5 else min(len(data), 64)
  for _ in range(rng.randint(1, _MAX_EDITS)):
    at, length = rng.randrange(reach + 1), rng.choice((1, 1, 2, 4, 40))
    match rng.randrange(6):
      case 0:
        changed[at : at + 1] = rng.randbytes(1)
      case 1:
        part = rng.choice(_BYTES)
        changed[at : at + len(part)] = part
      case 2:
        changed[at:at] = rng.randbytes(length)
      case 3:
        del changed[at : at + length]
      case 4:
        changed[at:at] = changed[at : at + length]
      case 5:
        del changed[rng.randrange(len(changed) + 1) :]
  return bytes(changed)


def _mutate_header(data: bytes, rng: random.Random) -> bytes:
  """Damages the JSON header of a safetensors file, or the spec in it."""
  end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
  header = json.loads(data[_LENGTH_BYTES:end])
  metadata = header.get("__metadata__", {})
  if "spec" in metadata and rng.random() < 0.7:
    spec = metadata["spec"].encode()
    changed = _mutate_json(spec, rng).decode("utf-8", "replace")
    metadata["spec"] = changed
    text = json.dumps(header).encode()
  else:
    text = _mutate_json(data[_LENGTH_BYTES:end], rng)
  return len(text).to_bytes(_LENGTH_BYTES, "little") + text + data[end:]


def _mutate_json(data: bytes, rng: random.Random) -> bytes:
  if rng.random() < 0.1:
    depth = rng.choice((50, 70, 1_000, 100_000))
    return b'{"a":' * depth + b"0" + b"}" * depth
  value = json.loads(data)
  for _ in range(rng.randint(1, 3)):
    value = _replace(value, rng)
  return json.dumps(value).encode()


def _replace(value: Any, rng: random.Random) -> Any:
  """Returns a JSON value with a change at a random place."""
  if not isinstance(value, dict | list) or not value or rng.random() < 0.05:
    return copy.deepcopy(rng.choice(_VALUES))
  keys = list(value) if isinstance(value, dict) else list(range(len(value)))
  key = rng.choice(keys)
  match rng.randrange(8):
    case 0:
      del value[key]
    case 1 if isinstance(value, dict):
      value[rng.choice(("x", "\ud800", "\n", "kind", ""))] = copy.deepcopy(
        rng.choice(_VALUES)
      )
    case _:
      value[key] = _replace(value[key], rng)
  return value
