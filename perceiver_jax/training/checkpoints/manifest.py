"""Manifests of checkpoints, whose checksums reveal damage.

Every checkpoint holds, besides its arrays, a JSON manifest with the name, shape
and CRC32 of each leaf of the state, the position in the data, the extras and
the metrics. The manifest has a CRC32 of its own, so any changed byte in a
restored value is detected, whether memory or the disk changed it.
"""

import concurrent.futures
import errno
import functools
import json
import logging as std_logging
import os
import re
import sys
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from perceiver_jax.errors import UserError

MANIFEST_ITEM = "extras"
_ABANDONED = re.compile(
  "loop is closed|error while reading array index|OCDBT database|/orbax/"
)
_MAX_REASON = 200  # maximum length of a quoted error message, in characters
# Errors of the system that mean damage. Others may pass, as an outage does.
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)
# The status with which TensorStore's messages about such others begin.
_UNAVAILABLE = re.compile(
  "ABORTED|DEADLINE_EXCEEDED|PERMISSION_DENIED|RESOURCE_EXHAUSTED"
  "|UNAUTHENTICATED|UNAVAILABLE"
)


class UnreadableError(Exception):
  """A checkpoint is damaged; the message is the reason, in one line."""


class UnavailableError(UserError):
  """A checkpoint can't be read now, but may be intact."""


class Manifest(NamedTuple):
  """The manifest of one checkpoint.

  Attributes:
    extras: data that the caller stored with the state.
    metrics: metric name to value, empty if none were given.
    leaves: leaf name to `[shape, crc32]`, e.g. `["float32[3,4]", 7]`.
    data: state of the data iterator, None if none was given.
  """

  extras: dict[str, Any]
  metrics: dict[str, float]
  leaves: dict[str, list]
  data: Any


def flatten(tree: Any) -> dict[str, Any]:
  """Returns the leaves of `tree` by name, `{"params.lin.w": leaf}`, in order.

  A flat dict is stored instead of the tree because containers without leaves
  (no EMA, optax's empty states) then cannot make two equal states differ.

  Args:
    tree: any pytree.

  Returns:
    The leaves by name.

  Raises:
    ValueError: if two leaves would share a name.
  """
  paths = jax.tree_util.tree_leaves_with_path(tree)
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator="."): leaf
    for path, leaf in paths
  }
  if len(leaves) != len(paths):
    raise ValueError("two leaves of the state have the same name")
  return leaves


def make_manifest(
  leaves: Mapping[str, Any],
  extras: Mapping[str, Any],
  metrics: Mapping[str, float],
  data: Any,
) -> dict[str, Any]:
  """Returns the manifest of a state as JSON-able data.

  All processes have to call this function.

  Args:
    leaves: state arrays by name.
    extras: JSON-able data of the caller.
    metrics: metric name to value.
    data: JSON-able state of the data iterator, or None.

  Returns:
    A dict for Orbax's `JsonSave`.
  """
  body = Manifest(
    extras=dict(extras),
    metrics={name: float(value) for name, value in metrics.items()},
    leaves={
      name: [describe(leaves[name]), checksum]
      for name, checksum in _checksums(leaves).items()
    },
    data=data,
  )._asdict()
  return {"body": body, "crc32": _json_checksum(body)}


def read_manifest(path: epath.Path) -> Manifest:
  """Reads the manifest of the checkpoint in directory `path`.

  Raises:
    UnreadableError: if it is missing or does not match its own checksum.
    UnavailableError: if it can't be read now.
  """
  try:
    # Orbax would ask first whether it exists, and take any error for a no.
    stored = json.loads((path / MANIFEST_ITEM / "metadata").read_text())
    body, checksum = stored["body"], stored["crc32"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    check_is_damage(error, path)
    raise UnreadableError(f"damaged record: {one_line(error)}") from error
  if _json_checksum(body) != checksum:
    raise UnreadableError("its record does not match its checksum")
  return Manifest(**body)


def check_fits(
  manifest: Manifest, abstract_leaves: Mapping[str, Any], where: str
) -> None:
  """Checks that a checkpoint has exactly the leaves that are asked for.

  Args:
    manifest: manifest of the checkpoint.
    abstract_leaves: `jax.ShapeDtypeStruct`s by name.
    where: description of the checkpoint, for the message.

  Raises:
    UserError: naming the first differing leaf and both shapes.
  """
  wanted = {name: describe(leaf) for name, leaf in abstract_leaves.items()}
  stored = {name: shape for name, (shape, _) in manifest.leaves.items()}
  for name in [*wanted, *(name for name in stored if name not in wanted)]:
    if stored.get(name) != wanted.get(name):
      raise UserError(
        f"{where} is of another model or optimizer: {name} is "
        f"{stored.get(name, 'absent')} in the checkpoint and "
        f"{wanted.get(name, 'absent')} in this config; use the config it was "
        "saved with or another --workdir"
      )


def check_values(manifest: Manifest, leaves: Mapping[str, Any]) -> None:
  """Compares restored arrays with the checksums taken when they were saved.

  All processes have to call this function.

  Raises:
    UnreadableError: naming the first leaf that differs.
  """
  for name, checksum in _checksums(leaves).items():
    if manifest.leaves[name][1] != checksum:
      raise UnreadableError(f"{name} does not match its checksum")


def describe(leaf: Any) -> str:
  """Returns dtype and shape of an array as text, e.g. `float32[3,4]`."""
  return f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def check_is_damage(error: BaseException, path: epath.Path) -> None:
  """Checks that an error of reading a checkpoint means that it is damaged.

  Raises:
    UnavailableError: if it may be intact: a permission is missing, or the
      server gives no answer.
  """
  failed = _os_error(error)
  if failed is None:
    damaged = not _UNAVAILABLE.match(str(error))
  else:
    damaged = isinstance(failed, FileNotFoundError) or failed.errno in _DAMAGE
  if not damaged:
    raise UnavailableError(
      f"the checkpoint {path} can't be read now: {one_line(error)}; run the "
      "same command again once it can"
    ) from error


def read_reason(error: BaseException) -> str:
  """Returns why a checkpoint can't be read in one line, with the file if any.

  TensorStore names the file at the end of a long chain of its own layers.
  """
  files = re.findall(r'local file "([^"]+[^"/])"', str(error))
  return f"damaged file {files[-1]}" if files else f"damaged: {one_line(error)}"


def one_line(error: BaseException) -> str:
  """Returns the reason for an error in one line.

  The message of the operating system is preferred if there is one.
  """
  failed = _os_error(error)
  if failed is not None and failed.strerror:
    return failed.strerror
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "..."


def _os_error(error: BaseException) -> OSError | None:
  """Returns the error of the operating system behind an error, if any."""
  cause: BaseException | None = error
  while cause is not None:
    if isinstance(cause, OSError):
      return cause
    cause = cause.__cause__ or cause.__context__
  # TensorStore reports a failed system call only inside its message.
  if code := re.search(r"os_error_code='(\d+)'", str(error)):
    return OSError(int(code.group(1)), os.strerror(int(code.group(1))))
  return None


@functools.cache
def quiet_orbax() -> None:
  """Silences Orbax's progress messages and duplicate error messages.

  Orbax stops at the first file that it can't read or write. Pending operations
  on other files would then log long errors on stderr, because their event loop
  is closed or their errors are never retrieved.
  """
  hook = sys.unraisablehook
  sys.unraisablehook = lambda unraisable: (
    None if _ABANDONED.search(str(unraisable.exc_value)) else hook(unraisable)
  )
  logging.get_absl_logger().addFilter(_is_worth_showing)
  std_logging.getLogger("asyncio").addFilter(
    lambda record: not _ABANDONED.search(record.getMessage())
  )


def _is_worth_showing(record: std_logging.LogRecord) -> bool:
  if "/orbax/" not in record.pathname:
    return True
  return record.levelno >= std_logging.WARNING and not record.exc_info


def _json_checksum(data: Any) -> int:
  # Use a JSON round trip so that tuples and integer keys compare as stored.
  data = json.loads(json.dumps(data))
  return zlib.crc32(json.dumps(data, sort_keys=True).encode())


def _checksums(leaves: Mapping[str, Any]) -> dict[str, int]:
  spread = {name: leaf for name, leaf in leaves.items() if _is_spread(leaf)}
  here = {name: leaf for name, leaf in leaves.items() if name not in spread}
  # zlib releases the interpreter lock, so threads run in parallel.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    result = dict(zip(here, pool.map(_checksum, here.values()), strict=True))
  # All processes gather the same array at the same time, and one at a time to
  # save memory.
  for name, leaf in spread.items():
    result[name] = _checksum(
      multihost_utils.process_allgather(leaf, tiled=True)
    )
  return result


def _is_spread(leaf: Any) -> bool:
  """Returns whether an array is sharded over several processes."""
  return isinstance(leaf, jax.Array) and not (
    leaf.is_fully_replicated or leaf.is_fully_addressable
  )


def _checksum(leaf: Any) -> int:
  if isinstance(leaf, jax.Array) and leaf.is_fully_replicated:
    leaf = leaf.addressable_data(0)
  host = np.ascontiguousarray(np.asarray(leaf))
  return zlib.crc32(host.reshape(-1).view(np.uint8))
