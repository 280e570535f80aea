"""The error a person can mend."""


class UserError(ValueError):
  """A mistake in a flag, a config leaf or a file the user named.

  The message is one line: what was given, what is allowed, what to change.
  Entry points print it without a traceback and exit with status 2.
  """
