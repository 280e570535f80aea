"""Text from outside (class names, settings) made fit to be drawn or shown."""


def printable(text: str) -> str:
  """The text with what neither HTML, SVG nor fonts can hold replaced.

  A class named after a folder may hold anything a file name may: control
  characters spoil an SVG, and lone surrogates cannot be written as UTF-8.

  Args:
    text: any string.

  Returns:
    As many characters: white space as ' ', other unprintable ones as '�'.
  """
  return "".join(
    c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text
  )


def shorten(text: str, most: int) -> str:
  """The printable text, cut to `most` characters with a '…' when longer."""
  text = printable(text)
  return text if len(text) <= most else text[: most - 1] + "…"
