"""Errors whose message is meant for the person who started the program."""

from perceiver_jax import limits


class UserError(ValueError):
  """Something given was wrong, and the message says what to change.

  The entry points print it as one line, `error: ...`, and exit with status 2.
  A message may quote what a file holds: characters that a terminal would not
  print are escaped, and a long message is shortened.
  """

  def __init__(self, message: str):
    super().__init__(_printable(message))


class DivergedError(RuntimeError):
  """Training reached a loss or gradient that is not a finite number.

  The entry points print it as one line, `error: ...`, and exit with status 1.
  """


class DataTimeoutError(RuntimeError):
  """Data could not be read within the time limit.

  The entry points print it as one line, `error: ...`, and exit with status 75.
  """

  def __init__(self, message: str):
    super().__init__(_printable(message))


def _printable(text: str) -> str:
  """Shortens text and escapes what a terminal would not print."""
  shown = "".join(
    character
    if character.isprintable() or character == "\n"
    else character.encode("unicode_escape").decode("ascii")
    for character in text[: limits.MAX_MESSAGE]
  )
  return shown if len(text) <= limits.MAX_MESSAGE else shown + "..."
