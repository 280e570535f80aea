"""Checks the chunks of an HDF5 dataset before it is read.

HDF5 allocates what a compressed chunk expands to, which the file need not say:
1 MB may become 1 GB.
"""

import math
import zlib
from typing import Any

# Codes of filters in the file format: deflate (gzip), shuffle, Fletcher-32.
_DEFLATE, _SHUFFLE, _CHECKSUM = 1, 2, 3
_CHECKSUM_BYTES = 4


def check_chunks(dataset: Any, max_bytes: int) -> None:
  """Checks that a dataset takes about as much memory as its shape says.

  Args:
    dataset: An open `h5py.Dataset`.
    max_bytes: Limit on the bytes of all chunks together; one chunk may take a
      quarter, or as much as the dataset.

  Raises:
    ValueError: The chunks are too large, expand to more than their size, or are
      compressed by other means than gzip.
  """
  if dataset.chunks is None:
    return
  size = math.prod(dataset.chunks) * dataset.dtype.itemsize
  counts = map(_ceil_divide, dataset.shape, dataset.chunks)
  largest = max(max_bytes // 4, dataset.nbytes)
  if size > largest or math.prod(counts) * size > max_bytes:
    raise ValueError(
      f"{dataset.name!r} has chunks {list(dataset.chunks)}, which may take"
      f" {largest:,} bytes each and {max_bytes:,} together; store it in"
      " smaller ones"
    )
  properties = dataset.id.get_create_plist()
  filters = [
    properties.get_filter(i)[0] for i in range(properties.get_nfilters())
  ]
  if not set(filters) <= {_DEFLATE, _SHUFFLE, _CHECKSUM} or (
    len(set(filters)) < len(filters)
  ):
    raise ValueError(
      f"{dataset.name!r} has HDF5 filters {filters}; store it with gzip only"
    )
  if _DEFLATE in filters:
    _check_expansion(dataset, size, 1 << filters.index(_DEFLATE))


def _check_expansion(dataset: Any, size: int, skipped: int) -> None:
  """Expands each chunk up to its size.

  Args:
    dataset: A dataset of compressed chunks.
    size: Bytes of an expanded chunk.
    skipped: The bit of a chunk's mask that says that it is not compressed.
  """
  stored: list[Any] = []
  # A function that returns a value would end the iteration.
  dataset.id.chunk_iter(stored.append)
  limit = size + _CHECKSUM_BYTES
  for chunk in stored:
    # Zlib adds at most a thousandth and some bytes to what it can't compress.
    if chunk.size > limit + limit // 100 + 1024:
      raise ValueError(f"{dataset.name!r} has a chunk of {chunk.size:,} bytes")
    if chunk.filter_mask & skipped:
      continue
    _, data = dataset.id.read_direct_chunk(chunk.chunk_offset)
    try:
      expanded = len(zlib.decompressobj().decompress(data, limit + 1))
    except zlib.error as error:
      raise ValueError(f"{dataset.name!r} is damaged ({error})") from error
    if expanded > limit:
      raise ValueError(
        f"{dataset.name!r} has a chunk that expands to more than its"
        f" {size:,} bytes"
      )


def _ceil_divide(a: int, b: int) -> int:
  return -(-a // b)
