"""Writes small replays of StarCraft II in the format of the game.

A replay is an MPQ archive. Its files are streams of bits, or of structures with
a type in front of each value ("versioned"). The layout is that of build 80949,
version 5.0.2.
"""

import bz2
import hashlib
import struct
import zlib
from collections.abc import Sequence

import mpyq

BUILD = 80949
# Unit types, and abilities as (link, command), of that build.
MARINE, SCV = 71, 68
ATTACK, MOVE, UNNAMED = (46, 0), (43, 0), (9999, 3)
_OFFSET = 1024  # Of the archive; the header with the version is before it.
_EXISTS, _SINGLE_UNIT, _COMPRESSED = 0x80000000, 0x01000000, 0x00000200


class Bits:
  """A stream of bits, with the first at the bottom of the first byte."""

  def __init__(self):
    self.data = bytearray()
    self._used = 8

  def write(self, value: int, bits: int) -> "Bits":
    """Appends an unsigned integer, its high bits first."""
    while bits:
      if self._used == 8:
        self.data.append(0)
        self._used = 0
      count = min(bits, 8 - self._used)
      part = (value >> (bits - count)) & ((1 << count) - 1)
      self.data[-1] |= part << self._used
      self._used += count
      bits -= count
    return self

  def all(self, *fields: tuple[int, int]) -> "Bits":
    """Appends integers with their numbers of bits."""
    for value, bits in fields:
      self.write(value, bits)
    return self

  def text(self, text: bytes, bits: int) -> "Bits":
    """Appends the length in `bits` bits and, from a whole byte on, the text."""
    self.write(len(text), bits).align()
    self.data.extend(text)
    return self

  def align(self) -> "Bits":
    """Skips to the next byte."""
    self._used = 8
    return self


def vint(value: int) -> bytes:
  """Encodes a signed integer of any size."""
  value = abs(value) << 1 | (value < 0)
  out = bytearray()
  while value > 0x7F:
    out.append(value & 0x7F | 0x80)
    value >>= 7
  return bytes([*out, value])


def versioned(value) -> bytes:
  """Encodes a value with its type.

  Args:
    value: an int, a bool, bytes, a str of four characters, a list, a dict by
      number, or a tuple of an optional value.
  """
  if isinstance(value, bool):
    return bytes([6, value])
  if isinstance(value, str):
    return b"\x07" + value.encode()
  if isinstance(value, bytes):
    return b"\x02" + vint(len(value)) + value
  if isinstance(value, list):
    return b"\x00" + vint(len(value)) + b"".join(map(versioned, value))
  if isinstance(value, dict):
    fields = [vint(key) + versioned(each) for key, each in value.items()]
    return b"\x05" + vint(len(value)) + b"".join(fields)
  if isinstance(value, tuple):
    (value,) = value
    if value is None:
      return b"\x04\x00"
    return b"\x04\x01" + versioned(value)
  return b"\x09" + vint(value)


def setup(number: int, user: int | None, slot: int | None, kind: int = 1):
  """Says which user is a player."""
  return 0, 9, {0: number, 1: kind, 2: (user,), 3: (slot,)}


def born(step: int, index: int, name: str, owner: int, x: int, y: int):
  """A unit appears, complete."""
  fields = {0: index, 1: 1, 2: name.encode(), 3: owner, 4: owner, 5: x, 6: y}
  return step, 1, fields


def begun(step: int, index: int, name: str, owner: int, x: int, y: int):
  """A unit appears that is yet to be built."""
  return step, 6, born(step, index, name, owner, x, y)[2]


def done(step: int, index: int):
  """A unit is complete."""
  return step, 7, {0: index, 1: 1}


def died(step: int, index: int):
  """A unit disappears."""
  return step, 2, {
    0: index, 1: 1, 2: (1,), 3: 9, 4: 9, 5: (None,), 6: (None,)
  }  # fmt: skip


def type_changed(step: int, index: int, name: str):
  """A unit gets another type."""
  return step, 4, {0: index, 1: 1, 2: name.encode()}


def owner_changed(step: int, index: int, owner: int):
  """A unit gets another owner."""
  return step, 3, {0: index, 1: 1, 2: owner, 3: owner}


def moved(step: int, places: Sequence[tuple[int, int, int]]):
  """Units, by increasing index, are at (index, x, y)."""
  first, items, last = places[0][0], [], places[0][0]
  for index, x, y in places:
    items += [index - last, x, y]
    last = index
  return step, 8, {0: first, 1: items}


def tag(index: int) -> int:
  """Returns the ID of a unit."""
  return index << 18 | 1


def select(
  step: int,
  user: int,
  indices: Sequence[int],
  remove: tuple[str, Sequence[int]] = ("None", ()),
  group: int = 10,
  unit_type: int = MARINE,
):
  """A user adds units to a selection after removing some from it."""
  fields = [(group, 4), (0, 9), *_mask(*remove), (bool(indices), 9)]
  if indices:
    fields += [(unit_type, 16), (5, 8), (1, 8), (len(indices), 9)]
  fields += [(len(indices), 9), *((tag(index), 32) for index in indices)]
  return step, user, 28, fields


def control_group(
  step: int,
  user: int,
  number: int,
  update: int,
  remove: tuple[str, Sequence[int]] = ("None", ()),
):
  """A user sets (0), adds to (1), gets (2) or deletes (3) a group."""
  return step, user, 29, [(number, 4), (update, 3), *_mask(*remove)]


def _mask(kind: str, values: Sequence[int]) -> list[tuple[int, int]]:
  """Returns the fields of a removal: a bit per unit, or places of units."""
  choice = ("None", "Mask", "OneIndices", "ZeroIndices").index(kind)
  if not choice:
    return [(0, 2)]
  bits = 1 if kind == "Mask" else 9
  return [(choice, 2), (len(values), 9), *((value, bits) for value in values)]


def command(
  step: int,
  user: int,
  ability: tuple[int, int] | None = ATTACK,
  target: int | None = None,
  point: tuple[float, float] | None = None,
):
  """A user gives a command, on a unit, at a point or on nothing."""
  fields = [(0x100, 27), (ability is not None, 1)]
  if ability is not None:
    fields += [(ability[0], 16), (ability[1], 5), (0, 1)]
  if target is not None:
    fields += [(2, 2), (0, 16), (0, 8), (tag(target), 32), (MARINE, 16)]
    fields += [(1, 1), (2, 4), (1, 1), (2, 4), *_point(50, 60)]
  elif point is not None:
    fields += [(1, 2), *_point(*point)]
  else:
    fields += [(0, 2)]
  return step, user, 27, [*fields, (7, 32), (0, 1), (0, 1)]


def _point(x: float, y: float) -> list[tuple[int, int]]:
  return [(int(4096 * x), 20), (int(4096 * y), 20), (2**31, 32)]


def tracker_events(events) -> bytes:
  """Encodes changes of units."""
  data, now = bytearray(), 0
  for step, kind, fields in sorted(events, key=lambda event: event[0]):
    data += b"\x03\x00\x09" + vint(step - now) + b"\x09" + vint(kind)
    data += versioned(fields)
    now = step
  return bytes(data)


def game_events(events) -> bytes:
  """Encodes what users do."""
  bits, now = Bits(), 0
  for step, user, kind, fields in sorted(events, key=lambda event: event[0]):
    delta = step - now
    extra = 0 if delta < 1 << 6 else 1 if delta < 1 << 14 else 2
    bits.all((extra, 2), (delta, 6 + 8 * extra), (user, 5), (kind, 7))
    bits.all(*fields).align()
    now = step
  return bytes(bits.data)


def _depot_file(name: bytes) -> bytes:
  return b"s2ma\0\0US" + hashlib.sha256(name).digest()


def _handle(number: int) -> bytes:
  return b"1-S2-1-%d" % (1000 + number)


def details(names: Sequence[str]) -> bytes:
  """Encodes the players' names and the files of the game."""
  players = [
    {
      0: name.encode(),
      1: {0: 1, 1: "S2\0\0", 2: 1, 4: 1000 + number},
      2: b"Terran",
      3: {0: 255, 1: 180, 2: 20, 3: 30},
      4: 2,
      5: number,
      6: 100,
      7: 0,
      8: 1 + number % 2,
      9: (number,),
      10: b"",
    }
    for number, name in enumerate(names)
  ]
  files = (b"Standard Data: Void.SC2Mod", b"the map")
  return versioned(
    {
      0: (players,),
      1: b"Plain of Tests",
      2: b"",
      3: {0: b"Minimap.tga"},
      4: True,
      5: 132_000_000_000_000_000,
      6: 0,
      7: b"",
      8: b"",
      9: b"",
      10: (list(map(_depot_file, files)),),
      11: False,
      12: 4,
      13: 3,
      14: (None,),
      15: 0,
      16: (False,),
    }
  )


def init_data(names: Sequence[str], teams: Sequence[int], game: int) -> bytes:
  """Encodes the lobby; `game` is the random value of the game."""
  bits = Bits().write(len(names), 5)
  for number, name in enumerate(names):
    bits.text(name.encode(), 8)
    # No clan, league, levels, preferences; an attribute of each kind is 0.
    bits.all((0, 1), (0, 1), (0, 1), (0, 1), (9, 32), (0, 1), (0, 1))
    bits.all(*[(0, 1)] * 4, (0, 32), (0, 2))
    bits.text(b"", 9).text(b"", 9).text(b"", 9).text(_handle(number), 7)
    bits.write(0, 1)
  bits.write(game, 32).text(b"cache", 10)
  bits.all(*[(0, 1)] * 10, (0, 2), (0, 2), (0, 2), (0, 64), (0, 1))
  bits.all((4, 3), (0, 3), (16, 5), (0, 5), (16, 5), (15, 4), (15, 6))
  bits.all((3, 8), (1, 8), (176, 8), (168, 8), (1, 32))
  bits.text(b"", 11).text(b"", 8).all((0, 32), (0, 5), (3, 6), (0, 8), (0, 6))
  bits.all(*[(0, 1)] * 6)
  bits.all((0, 3), (16, 5), (0, 5), (len(names), 5))
  for number, team in enumerate(teams):
    bits.all((2, 8), (1, 1), (number, 4), (team, 4), (0, 1), (0, 1))
    bits.all((3, 6), (0, 8), (100, 32), (0, 2), (0, 32))
    bits.text(b"", 9).text(b"", 9).text(b"", 9)
    bits.all((0, 4), (1, 1), (number, 8), (0, 17)).text(_handle(number), 7)
    bits.all((0, 16), (0, 1)).text(b"", 9)
    bits.all((0, 32), (0, 1), (0, 1), (0, 32), (0, 3), (0, 32), (0, 17))
    bits.all((0, 32), (0, 3), (0, 32), (0, 32), (0, 32))
  bits.all((5, 32), (0, 1), (0, 1), (0, 8), (0, 32), (3, 6), (0, 8))
  return bytes(bits.data)


def replay(
  tracked, inputs, names=("Ann", "Bob"), teams=(0, 1), game=1, build=BUILD
) -> bytes:
  """Returns a replay.

  Args:
    tracked: changes of units.
    inputs: what users do.
    names: names of the users.
    teams: team of each user.
    game: random value of the game.
    build: build in the header.
  """
  files = {
    "replay.details": details(names),
    "replay.initData": init_data(names, teams, game),
    "replay.attributes.events": bytes(9),
    "replay.message.events": b"",
    "replay.tracker.events": tracker_events(tracked),
    "replay.game.events": game_events(inputs),
  }
  last = max([event[0] for event in [*tracked, *inputs]], default=0)
  version = {0: 1, 1: 5, 2: 0, 3: 2, 4: build, 5: build}
  header = {0: b"StarCraft II replay\x1b11", 1: version, 2: 2, 3: last}
  return archive(files, versioned(header))


def archive(files: dict[str, bytes], header: bytes) -> bytes:
  """Returns an MPQ archive of compressed files, with a header before it."""
  blocks, hashes, contents = [], [], bytearray()
  for number, (name, data) in enumerate(files.items()):
    if number % 2:
      packed = b"\x02" + zlib.compress(data)
    else:
      packed = b"\x10" + bz2.compress(data)
    # The game stores what compression would not make smaller as it is.
    packed = min(packed, data, key=len)
    flags = _EXISTS | _SINGLE_UNIT | _COMPRESSED
    blocks += [32 + len(contents), len(packed), len(data), flags]
    hashes += [_hash(name, "HASH_A"), _hash(name, "HASH_B"), 0, number]
    contents += packed
  tables = {"hash": hashes, "block": blocks}
  places = {}
  for name, values in tables.items():
    places[name] = 32 + len(contents)
    contents += _encrypted(values, _hash(f"({name} table)", "TABLE"))
  head = struct.pack(
    "<4s2I2H4I",
    b"MPQ\x1a",
    32,
    32 + len(contents),
    0,
    3,
    places["hash"],
    places["block"],
    len(files),
    len(files),
  )
  user_data = struct.pack("<4s3I", b"MPQ\x1b", 512, _OFFSET, len(header))
  return (user_data + header).ljust(_OFFSET, b"\0") + head + bytes(contents)


def _hash(name: str, kind: str) -> int:
  return mpyq.MPQArchive._hash(mpyq.MPQArchive, name, kind)


def _encrypted(values: Sequence[int], key: int) -> bytes:
  """Encrypts a table, as `mpyq.MPQArchive._decrypt` decrypts one."""
  seed, out, mask = 0xEEEEEEEE, bytearray(), 0xFFFFFFFF
  for value in values:
    seed += mpyq.MPQArchive.encryption_table[0x400 + (key & 0xFF)]
    seed &= mask
    out += struct.pack("<I", (value ^ (key + seed)) & mask)
    key = (((~key << 0x15) + 0x11111111) | (key >> 0x0B)) & mask
    seed = value + seed + (seed << 5) + 3 & mask
  return bytes(out)
