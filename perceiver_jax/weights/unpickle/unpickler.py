"""Interpreter of pickle instructions that only builds arrays and containers.

A pickle is a program, and `pickle.load` calls any function that it names. A
`pickle.Unpickler` that refuses all names is not safe either: it allocates as
much memory as a number in the file says, and a deeply nested tuple as a dict
key overflows the C stack and ends the process.

This module does not use `pickle`. `pickletools` decodes the instructions, and
those that build numbers, text, bytes, tuples, lists, dicts with text keys and
arrays are interpreted on plain Python values. Nothing that the file names is
imported or called; `values` replaces the few functions that files of arrays
need.
"""

import io
import pickletools
from typing import Any

from perceiver_jax.weights.unpickle import values
from perceiver_jax.weights.unpickle.values import describe, printable, refuse

_MAX_INSTRUCTIONS = 200_000  # The released files have at most 20,000.
_MAX_KEY = 1000  # Characters; error messages may repeat keys.
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class DamagedError(Exception):
  """The file is not a pickle or is incomplete; the message says why."""


def unpickle(data: bytes) -> Any:
  """Unpickles arrays and containers without running code of the pickle.

  Args:
    data: The pickle; nothing in it is trusted.

  Returns:
    None, a number, str, bytes, a class of `values`, or a tuple, list or dict of
    these; containers may contain themselves.

  Raises:
    RefusedError: The pickle does or holds anything else, or is too large.
    DamagedError: The data is not a pickle or is incomplete.
  """
  try:
    builder = values.ArrayBuilder(max_bytes=2 * len(data))
    return SafeUnpickler(builder).load(data)
  except (ValueError, IndexError, KeyError) as error:
    raise DamagedError(printable(str(error))) from error


class SafeUnpickler:
  """Stack machine with a method `_op_<name>` for each allowed instruction.

  Args:
    builder: Builds arrays in place of the functions that the pickle calls.
  """

  def __init__(self, builder: values.ArrayBuilder):
    self._builder = builder
    self._stack: list[Any] = []
    self._below_marks: list[list[Any]] = []
    self._memo: dict[int, Any] = {}

  def load(self, data: bytes) -> Any:
    """Interprets a pickle; see `unpickle`."""
    instructions = pickletools.genops(io.BytesIO(data))
    for count, (opcode, argument, _) in enumerate(instructions):
      if opcode.name == "STOP":
        break
      if count == _MAX_INSTRUCTIONS:
        refuse(f"has more than {_MAX_INSTRUCTIONS} instructions")
      if opcode.name in _CONSTANTS:
        self._op_literal(_CONSTANTS[opcode.name])
      elif method := getattr(self, f"_op_{opcode.name.lower()}", None):
        method(argument)
      else:
        refuse(f"uses the pickle instruction {opcode.name}")
    return self._stack.pop()

  def _container(self, kind: type) -> Any:
    """Returns the top of the stack, which must be a `kind` to be filled."""
    if type(self._stack[-1]) is not kind:
      raise ValueError(f"no {kind.__name__} on top of the stack")
    return self._stack[-1]

  def _pop_to_mark(self) -> list[Any]:
    popped, self._stack = self._stack, self._below_marks.pop()
    return popped

  def _op_proto(self, _) -> None:
    pass

  _op_frame = _op_proto

  def _op_literal(self, value: Any) -> None:
    self._stack.append(value)

  _op_int = _op_binint = _op_binint1 = _op_binint2 = _op_literal
  _op_long = _op_long1 = _op_long4 = _op_float = _op_binfloat = _op_literal
  _op_unicode = _op_short_binunicode = _op_binunicode = _op_literal
  _op_binunicode8 = _op_short_binbytes = _op_binbytes = _op_literal
  _op_binbytes8 = _op_bytearray8 = _op_literal

  def _op_put(self, index: int) -> None:
    self._memo[index] = self._stack[-1]

  _op_binput = _op_long_binput = _op_put

  def _op_memoize(self, _) -> None:
    self._memo[len(self._memo)] = self._stack[-1]

  def _op_get(self, index: int) -> None:
    self._stack.append(self._memo[index])

  _op_binget = _op_long_binget = _op_get

  def _op_dup(self, _) -> None:
    self._stack.append(self._stack[-1])

  def _op_pop(self, _) -> None:
    if self._stack:
      self._stack.pop()
    else:
      self._pop_to_mark()

  def _op_pop_mark(self, _) -> None:
    self._pop_to_mark()

  def _op_mark(self, _) -> None:
    self._below_marks.append(self._stack)
    self._stack = []

  def _push_tuple(self, count: int) -> None:
    if len(self._stack) < count:
      raise ValueError("too few values for a tuple")
    items = [self._stack.pop() for _ in range(count)]
    self._stack.append(tuple(reversed(items)))

  def _op_empty_tuple(self, _) -> None:
    self._push_tuple(0)

  def _op_tuple1(self, _) -> None:
    self._push_tuple(1)

  def _op_tuple2(self, _) -> None:
    self._push_tuple(2)

  def _op_tuple3(self, _) -> None:
    self._push_tuple(3)

  def _op_tuple(self, _) -> None:
    items = self._pop_to_mark()
    self._stack.append(tuple(items))

  def _op_empty_list(self, _) -> None:
    self._stack.append([])

  def _op_list(self, _) -> None:
    items = self._pop_to_mark()
    self._stack.append(items)

  def _op_append(self, _) -> None:
    value = self._stack.pop()
    self._container(list).append(value)

  def _op_appends(self, _) -> None:
    items = self._pop_to_mark()
    self._container(list).extend(items)

  def _op_empty_dict(self, _) -> None:
    self._stack.append({})

  def _op_dict(self, _) -> None:
    items = self._pop_to_mark()
    self._stack.append({})
    self._fill_dict(items)

  def _op_setitem(self, _) -> None:
    value, key = self._stack.pop(), self._stack.pop()
    self._fill_dict([key, value])

  def _op_setitems(self, _) -> None:
    self._fill_dict(self._pop_to_mark())

  def _fill_dict(self, items: list[Any]) -> None:
    target = self._container(dict)
    for key, value in zip(items[::2], items[1::2], strict=True):
      # Hashing nested tuples recurses without a limit, so keys must be text.
      if type(key) is not str:
        refuse(f"has {describe(key)} as a key, not text")
      if len(key) > _MAX_KEY or not key.isprintable():
        refuse(
          f"has the key {printable(key)}, which is too long or not printable"
        )
      target[key] = value

  def _op_global(self, argument: str) -> None:
    name = argument.replace(" ", ".", 1)
    if name not in values.ALLOWED_NAMES:
      refuse(f"names {printable(name)}")
    self._stack.append(values.Global(name))

  def _op_stack_global(self, _) -> None:
    name, module = self._stack.pop(), self._stack.pop()
    if type(name) is not str or type(module) is not str:
      raise ValueError("a name that is not text")
    self._op_global(f"{module} {name}")

  def _op_inst(self, argument: str) -> None:
    self._op_global(argument)
    refuse("uses the pickle instruction INST")

  def _op_reduce(self, _) -> None:
    arguments, function = self._stack.pop(), self._stack.pop()
    if type(function) is not values.Global or type(arguments) is not tuple:
      refuse(f"calls {describe(function)}")
    self._stack.append(self._builder.call(function.name, arguments))

  def _op_build(self, _) -> None:
    state = self._stack.pop()
    self._builder.set_state(self._stack[-1], state)
