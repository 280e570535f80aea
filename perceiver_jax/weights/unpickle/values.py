"""Allowed names in a pickle of arrays, and safe replacements for them.

The allowed names are

- NumPy's functions that rebuild arrays. JAX of 2021 pickled its device arrays
  as NumPy's; since mid-2022 it wraps the same content once more.
- Mappings of Haiku and Python, which take one dict.
- Functions that protocols 0 to 2 use to store bytes.
"""

import dataclasses
import math
import re
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

_MAX_NDIM = 32  # NumPy's limit before 2.0.
_MAX_LENGTH = 120  # Characters of the file's text in an error message.
_NUMBER_TYPE = re.compile("b1|[iu][1248]|f[248]")

# Name in a pickle to the kind of its replacement.
ALLOWED_NAMES = {
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
  """The file asks for something that is not allowed; the message names it."""


def refuse(action: str) -> NoReturn:
  """Raises `RefusedError` with a message that ends in "the file `action`"."""
  raise RefusedError(
    f"perceiver_jax only reads arrays and plain containers; the file {action}"
  )


@dataclasses.dataclass(slots=True, eq=False)
class Global:
  """A function or class that the file names."""

  name: str


@dataclasses.dataclass(slots=True, eq=False)
class Dtype:
  """An element type; pickles create it first and set its byte order later."""

  value: np.dtype


@dataclasses.dataclass(slots=True, eq=False)
class Array:
  """An array; pickles create it first and fill it later."""

  value: np.ndarray | None = None


class ArrayBuilder:
  """Builds arrays in place of the functions that a pickle calls.

  Args:
    max_bytes: Limit of the size of all arrays together, so that a short file
      can't make many arrays from the same bytes.
  """

  def __init__(self, max_bytes: int):
    self._bytes_left = max_bytes

  def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
    """Returns the result of an allowed function without calling it.

    Args:
      name: A key of `ALLOWED_NAMES`.
      arguments: Arguments of the function.

    Returns:
      A dict, bytes, `Dtype` or `Array`.

    Raises:
      RefusedError: Pickles of arrays don't call the function with these
        arguments.
      ValueError: A size is impossible, or text does not encode bytes.
    """
    match ALLOWED_NAMES[name], arguments:
      case "mapping", ():
        return {}
      case "mapping", (dict() as items,):
        return items
      case "bytes", ():
        return b""
      case "encode", (str() as text, "latin1"):
        self._spend(len(text))
        return text.encode("latin1")
      case "dtype", (Global(name="ml_dtypes.bfloat16"), _, _):
        return Dtype(np.dtype(ml_dtypes.bfloat16))
      case "dtype", (str() as code, _, _):
        if not _NUMBER_TYPE.fullmatch(code):
          refuse(f"holds an array of type {printable(code)}")
        return Dtype(np.dtype(code))
      case "reconstruct", (Global(name="numpy.ndarray"), _, _):
        return Array()
      case "scalar", (dtype, data):
        return Array(self._array(data, dtype, (), "C"))
      case "frombuffer", (data, dtype, shape, order):
        return Array(self._array(data, dtype, shape, order))
      case "frombuffer", (data, dtype, shape, "K", axes):
        array = self._array(data, dtype, shape, "C")
        return Array(array.transpose(_checked_axes(axes, array.ndim)))
      case "device_array", (Global(name=function), tuple() as args, state, _):
        if ALLOWED_NAMES[function] == "reconstruct":
          array = self.call(function, args)
          self.set_state(array, state)
          return array
    refuse(f"calls {name} with unusual arguments")

  def set_state(self, target: Any, state: Any) -> None:
    """Completes a `Dtype` or an `Array` in place of its `__setstate__`.

    Args:
      target: The object on top of the stack.
      state: The argument of `__setstate__`.

    Raises:
      RefusedError: `target` is something else, or the state is unusual.
      ValueError: A size is impossible.
    """
    match target, state:
      case Dtype(), (3, "<" | "=" | "|", None, None, None, *_):
        pass
      case Dtype(), (3, ">", None, None, None, *_):
        target.value = target.value.newbyteorder(">")
      case Array(), (1, shape, dtype, in_fortran_order, data):
        order = "F" if in_fortran_order else "C"
        target.value = self._array(data, dtype, shape, order)
      case _:
        refuse(f"sets an unusual state of {describe(target)}")

  def _array(self, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """Returns a read-only view of `data`, or a copy in native byte order."""
    if type(dtype) is not Dtype or type(data) not in (bytes, bytearray):
      refuse(f"fills an array with {describe(data)}, typed {describe(dtype)}")
    if not _is_shape(shape) or order not in ("C", "F"):
      raise ValueError("an array with an invalid shape or order")
    size = math.prod(shape) * dtype.value.itemsize
    if size != len(data):
      refuse(f"has {len(data)} bytes for {dtype.value}{list(shape)}")
    self._spend(size)
    array = np.ndarray(shape, dtype.value, data, order=order)
    array = array.astype(dtype.value.newbyteorder("="), copy=False)
    array.flags.writeable = False
    return array

  def _spend(self, size: int) -> None:
    self._bytes_left -= size
    if self._bytes_left < 0:
      refuse("fills its arrays with the same bytes over and over")


def _is_shape(shape: Any) -> bool:
  return (
    type(shape) is tuple
    and len(shape) <= _MAX_NDIM
    and all(type(size) is int and 0 <= size < 2**31 for size in shape)
  )


def _checked_axes(axes: Any, ndim: int) -> tuple[int, ...]:
  if not _is_shape(axes) or sorted(axes) != list(range(ndim)):
    raise ValueError("an array with invalid axes")
  return axes


def describe(value: Any) -> str:
  """Describes a value for an error message."""
  match value:
    case Global():
      return value.name
    case Array():
      return "an array" if value.value is not None else "an unfilled array"
    case Dtype():
      return f"the type {value.value}"
  return f"a value of type {type(value).__name__}"


def printable(text: str) -> str:
  """Shortens and escapes text so that it is safe to print to a terminal."""
  escaped = ascii(text[: _MAX_LENGTH + 1])[1:-1]
  if len(escaped) <= _MAX_LENGTH:
    return escaped
  return escaped[:_MAX_LENGTH] + "..."
