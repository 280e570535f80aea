"""What a pickle of arrays may name, and plain stand-ins for it.

- NumPy's functions that rebuild arrays. JAX of 2021 wrote its device arrays as
  NumPy's; since mid-2022 it wraps the same content once more.
- Haiku's and Python's mappings, which take one dict.
- Those by which protocols 0 to 2 write bytes.
"""

import dataclasses
import math
import re
from typing import (
  Any,
  NoReturn,
)

import ml_dtypes
import numpy as np

_MAX_NDIM = 32  # NumPy's own limit until 2.0
_MAX_SHOWN = 120  # characters of the file's text that a message repeats
_NUMBER = re.compile("b1|[iu][1248]|f[248]")

KINDS = {
  "numpy.ndarray": "ndarray",
  "numpy.dtype": "dtype",
  "ml_dtypes.bfloat16": "bfloat16",
  "numpy.core.multiarray._reconstruct": "reconstruct",
  "numpy._core.multiarray._reconstruct": "reconstruct",
  "numpy.core.multiarray.scalar": "scalar",
  "numpy._core.multiarray.scalar": "scalar",
  "numpy.core.numeric._frombuffer": "frombuffer",
  "numpy._core.numeric._frombuffer": "frombuffer",
  "jax._src.device_array.reconstruct_device_array": "device_array",
  "jax._src.array._reconstruct_array": "device_array",
  "haiku._src.data_structures.FlatMapping": "mapping",
  "haiku._src.data_structures.FlatMap": "mapping",
  "haiku._src.data_structures.frozendict": "mapping",
  "collections.OrderedDict": "mapping",
  "builtins.dict": "mapping",
  "__builtin__.dict": "mapping",
  "_codecs.encode": "encode",
  "builtins.bytes": "bytes",
  "__builtin__.bytes": "bytes",
}


class RefusedError(Exception):
  """The file asks for something that is not done; the message names it."""


def refuse(what: str) -> NoReturn:
  """Raises `RefusedError`: "... the file `what`"."""
  raise RefusedError(
    f"perceiver_jax only reads arrays and plain containers; the file {what}"
  )


@dataclasses.dataclass(slots=True, eq=False)
class Name:
  """A function or class that the file names."""

  name: str


@dataclasses.dataclass(slots=True, eq=False)
class Dtype:
  """An element type; files name it first and its byte order later."""

  value: np.dtype


@dataclasses.dataclass(slots=True, eq=False)
class Array:
  """An array; files announce it first and fill it later."""

  value: np.ndarray | None = None


class Builder:
  """Makes the stand-ins.

  Args:
    allowance: bytes that array contents may take up in all, so that a short
      file can't ask for the same bytes over and over.
  """

  def __init__(self, allowance: int):
    self._allowance = allowance

  def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
    """Makes what the function of that name would return.

    Args:
      name: a key of `KINDS`.
      arguments: its arguments.

    Returns:
      A dict, bytes, `Dtype` or `Array`.

    Raises:
      RefusedError: no writer of arrays gives it such arguments.
      ValueError: sizes that no array has, or text that is no bytes.
    """
    match KINDS[name], arguments:
      case "mapping", ():
        return {}
      case "mapping", (dict() as items,):
        return items
      case "bytes", ():
        return b""
      case "encode", (str() as text, "latin1"):
        self._charge(len(text))
        return text.encode("latin1")
      case "dtype", (Name(name="ml_dtypes.bfloat16"), _, _):
        return Dtype(np.dtype(ml_dtypes.bfloat16))
      case "dtype", (str() as code, _, _):
        if not _NUMBER.fullmatch(code):
          refuse(f"holds an array of type {shown(code)}")
        return Dtype(np.dtype(code))
      case "reconstruct", (Name(name="numpy.ndarray"), _, _):
        return Array()
      case "scalar", (dtype, data):
        return Array(self._filled(data, dtype, (), "C"))
      case "frombuffer", (data, dtype, shape, order):
        return Array(self._filled(data, dtype, shape, order))
      case "frombuffer", (data, dtype, shape, "K", axes):
        array = self._filled(data, dtype, shape, "C")
        return Array(array.transpose(_checked_axes(axes, array.ndim)))
      case "device_array", (Name(name=make), tuple() as made_of, state, _):
        if KINDS[make] == "reconstruct":
          array = self.call(make, made_of)
          self.set_state(array, state)
          return array
    refuse(f"calls {name} with unusual arguments")

  def set_state(self, target: Any, state: Any) -> None:
    """Completes a `Dtype` or an `Array` as its `__setstate__` would.

    Args:
      target: what is on top of the stack.
      state: the state.

    Raises:
      RefusedError: `target` is something else, or the state is unusual.
      ValueError: sizes that no array has.
    """
    match target, state:
      case Dtype(), (3, "<" | "=" | "|", None, None, None, *_):
        pass
      case Dtype(), (3, ">", None, None, None, *_):
        target.value = target.value.newbyteorder(">")
      case Array(), (1, shape, dtype, in_fortran_order, data):
        order = "F" if in_fortran_order else "C"
        target.value = self._filled(data, dtype, shape, order)
      case _:
        refuse(f"sets an unusual state of {described(target)}")

  def _filled(
    self, data: Any, dtype: Any, shape: Any, order: Any
  ) -> np.ndarray:
    """A read-only view of `data`, or a copy if the byte order is foreign."""
    if type(dtype) is not Dtype or type(data) not in (bytes, bytearray):
      refuse(f"fills an array with {described(data)}, typed {described(dtype)}")
    if not _is_shape(shape) or order not in ("C", "F"):
      raise ValueError("an array without proper shape and order")
    size = math.prod(shape) * dtype.value.itemsize
    if size != len(data):
      refuse(f"has {len(data)} bytes for {dtype.value}{list(shape)}")
    self._charge(size)
    array = np.ndarray(shape, dtype.value, data, order=order)
    array = array.astype(dtype.value.newbyteorder("="), copy=False)
    array.flags.writeable = False
    return array

  def _charge(self, size: int) -> None:
    self._allowance -= size
    if self._allowance < 0:
      refuse("fills its arrays with the same bytes over and over")


def _is_shape(shape: Any) -> bool:
  return (
    type(shape) is tuple
    and len(shape) <= _MAX_NDIM
    and all(type(size) is int and 0 <= size < 2**31 for size in shape)
  )


def _checked_axes(axes: Any, ndim: int) -> tuple[int, ...]:
  if not _is_shape(axes) or sorted(axes) != list(range(ndim)):
    raise ValueError("an array with improper axes")
  return axes


def described(value: Any) -> str:
  """What kind of thing `value` is, for a message."""
  match value:
    case Name():
      return value.name
    case Array():
      return "an array" if value.value is not None else "an unfilled array"
    case Dtype():
      return f"the type {value.value}"
  return f"a value of type {type(value).__name__}"


def shown(text: str) -> str:
  """`text` on one line: short, and without what could steer a terminal."""
  printable = ascii(text[: _MAX_SHOWN + 1])[1:-1]
  if len(printable) <= _MAX_SHOWN:
    return printable
  return printable[:_MAX_SHOWN] + "..."
