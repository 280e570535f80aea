"""Decodes the text of files."""

from perceiver_jax.errors import UserError


def decode(data: bytes, path: str, start: int) -> str:
  """Decodes a part of a file of UTF-8.

  Args:
    data: bytes of the file.
    path: path of the file, for the error.
    start: offset of the bytes in the file.

  Raises:
    UserError: it is not UTF-8.
  """
  try:
    return data.decode("utf-8")
  except UnicodeDecodeError as error:
    raise UserError(
      f"{path} is not text in UTF-8: byte {start + error.start:,} is"
      f" {data[error.start]:#04x}; convert the file, or remove what is damaged"
    ) from error
