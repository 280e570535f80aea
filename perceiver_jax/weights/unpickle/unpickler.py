"""A pickle's instructions, carried out as far as they build arrays.

A pickle is a program, and loading one calls whatever it names. Neither is a
`pickle.Unpickler` that refuses every name safe: it reserves the memory that a
number in the file asks for, and a deeply nested tuple as a dict key overflows
the C stack and ends the process.

So nothing is unpickled here. `pickletools` decodes the instructions, and those
that build numbers, text, bytes, tuples, lists, dicts with text keys and arrays
are carried out on plain Python values. Nothing is imported, called or set on
the file's behalf; the few functions that files of arrays name have stand-ins
in `pickle_values`.
"""

import io
import pickletools
from typing import Any

from perceiver_jax.weights.unpickle import values as pickle_values
from perceiver_jax.weights.unpickle.values import (
  described,
  refuse,
  shown,
)

_MAX_INSTRUCTIONS = 200_000  # a released file has at most 20,000
_MAX_KEY = 1000  # characters; it may be looked at many times
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class DamagedError(Exception):
  """The file is no pickle, or an incomplete one; the message says why."""


def evaluate(data: bytes) -> Any:
  """Builds what a pickle describes, as far as it is arrays and containers.

  Args:
    data: the pickle; nothing in it is trusted.

  Returns:
    None, a number, str, bytes, one of `pickle_values`, or a tuple, list or
    dict of these; containers may contain themselves.

  Raises:
    RefusedError: it does or holds anything else, or too much of it.
    DamagedError: it isn't a pickle, or not a whole one.
  """
  try:
    values = pickle_values.Builder(allowance=2 * len(data))
    return _Machine(values).run(data)
  except (ValueError, IndexError, KeyError) as error:
    raise DamagedError(shown(str(error))) from error


class _Machine:
  """The stack, the memo, and a method for each instruction, `op_<name>`.

  Args:
    values: makes what the instructions call for.
  """

  def __init__(self, values: pickle_values.Builder):
    self._values = values
    self._stack: list[Any] = []
    self._below_marks: list[list[Any]] = []
    self._memo: dict[int, Any] = {}

  def run(self, data: bytes) -> Any:
    instructions = pickletools.genops(io.BytesIO(data))
    for count, (opcode, argument, _) in enumerate(instructions):
      if opcode.name == "STOP":
        break
      if count == _MAX_INSTRUCTIONS:
        refuse(f"has more than {_MAX_INSTRUCTIONS} instructions")
      if opcode.name in _CONSTANTS:
        self.op_literal(_CONSTANTS[opcode.name])
      elif method := getattr(self, f"op_{opcode.name.lower()}", None):
        method(argument)
      else:
        refuse(f"uses the pickle instruction {opcode.name}")
    return self._stack.pop()

  def _filling(self, kind: type) -> Any:
    """The list or dict on top of the stack."""
    if type(self._stack[-1]) is not kind:
      raise ValueError(f"no {kind.__name__} where one is filled")
    return self._stack[-1]

  def _pop_to_mark(self) -> list[Any]:
    values, self._stack = self._stack, self._below_marks.pop()
    return values

  def op_proto(self, _) -> None:
    pass

  op_frame = op_proto

  def op_literal(self, value: Any) -> None:
    self._stack.append(value)

  op_int = op_binint = op_binint1 = op_binint2 = op_literal
  op_long = op_long1 = op_long4 = op_float = op_binfloat = op_literal
  op_unicode = op_short_binunicode = op_binunicode = op_literal
  op_binunicode8 = op_short_binbytes = op_binbytes = op_literal
  op_binbytes8 = op_bytearray8 = op_literal

  def op_put(self, index: int) -> None:
    self._memo[index] = self._stack[-1]

  op_binput = op_long_binput = op_put

  def op_memoize(self, _) -> None:
    self._memo[len(self._memo)] = self._stack[-1]

  def op_get(self, index: int) -> None:
    self._stack.append(self._memo[index])

  op_binget = op_long_binget = op_get

  def op_dup(self, _) -> None:
    self._stack.append(self._stack[-1])

  def op_pop(self, _) -> None:
    if self._stack:
      self._stack.pop()
    else:
      self._pop_to_mark()

  def op_pop_mark(self, _) -> None:
    self._pop_to_mark()

  def op_mark(self, _) -> None:
    self._below_marks.append(self._stack)
    self._stack = []

  def _push_tuple(self, count: int) -> None:
    if len(self._stack) < count:
      raise ValueError("too few values for a tuple")
    values = [self._stack.pop() for _ in range(count)]
    self._stack.append(tuple(reversed(values)))

  def op_empty_tuple(self, _) -> None:
    self._push_tuple(0)

  def op_tuple1(self, _) -> None:
    self._push_tuple(1)

  def op_tuple2(self, _) -> None:
    self._push_tuple(2)

  def op_tuple3(self, _) -> None:
    self._push_tuple(3)

  def op_tuple(self, _) -> None:
    values = self._pop_to_mark()
    self._stack.append(tuple(values))

  def op_empty_list(self, _) -> None:
    self._stack.append([])

  def op_list(self, _) -> None:
    values = self._pop_to_mark()
    self._stack.append(values)

  def op_append(self, _) -> None:
    value = self._stack.pop()
    self._filling(list).append(value)

  def op_appends(self, _) -> None:
    values = self._pop_to_mark()
    self._filling(list).extend(values)

  def op_empty_dict(self, _) -> None:
    self._stack.append({})

  def op_dict(self, _) -> None:
    values = self._pop_to_mark()
    self._stack.append({})
    self._fill_dict(values)

  def op_setitem(self, _) -> None:
    value, key = self._stack.pop(), self._stack.pop()
    self._fill_dict([key, value])

  def op_setitems(self, _) -> None:
    self._fill_dict(self._pop_to_mark())

  def _fill_dict(self, values: list[Any]) -> None:
    target = self._filling(dict)
    for key, value in zip(values[::2], values[1::2], strict=True):
      # Text alone: the hash of nested tuples recurses without a limit.
      if type(key) is not str:
        refuse(f"has {described(key)} as a key, not text")
      if len(key) > _MAX_KEY or not key.isprintable():
        refuse(f"has the key {shown(key)}, which is too long or not printable")
      target[key] = value

  def op_global(self, argument: str) -> None:
    name = argument.replace(" ", ".", 1)
    if name not in pickle_values.KINDS:
      refuse(f"names {shown(name)}")
    self._stack.append(pickle_values.Name(name))

  def op_stack_global(self, _) -> None:
    name, module = self._stack.pop(), self._stack.pop()
    if type(name) is not str or type(module) is not str:
      raise ValueError("a name that is not text")
    self.op_global(f"{module} {name}")

  def op_inst(self, argument: str) -> None:
    self.op_global(argument)
    refuse("uses the pickle instruction INST")

  def op_reduce(self, _) -> None:
    arguments, function = self._stack.pop(), self._stack.pop()
    if type(function) is not pickle_values.Name or type(arguments) is not tuple:
      refuse(f"calls {described(function)}")
    self._stack.append(self._values.call(function.name, arguments))

  def op_build(self, _) -> None:
    state = self._stack.pop()
    self._values.set_state(self._stack[-1], state)
