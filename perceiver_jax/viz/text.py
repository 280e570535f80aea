"""Makes text of unknown origin, such as class names, safe to display."""


def printable(text: str) -> str:
  """Replaces characters that HTML, SVG or fonts cannot represent.

  Class names may come from folder names and contain any character: control
  characters make an SVG invalid, lone surrogates cannot be encoded as UTF-8.

  Args:
    text: any string.

  Returns:
    A string of the same length, with spaces in place of white space, and the
    replacement character in place of other unprintable characters.
  """
  return "".join(
    c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text
  )


def shorten(text: str, length: int) -> str:
  """Makes text printable and truncates it to `length` characters with "…"."""
  text = printable(text)
  return text if len(text) <= length else text[: length - 1] + "…"
