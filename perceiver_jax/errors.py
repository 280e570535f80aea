"""Errors whose message is meant for the person who started the program."""


class UserError(ValueError):
  """Something given was wrong, and the message says what to change.

  The entry points print it as one line, `error: ...`, and exit with status 2.
  """


class DivergedError(RuntimeError):
  """Training reached a loss or gradient that is not a finite number.

  The entry points print it as one line, `error: ...`, and exit with status 1.
  """
