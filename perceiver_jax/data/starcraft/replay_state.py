"""The state of a game that the events of its replay add up to.

Events are sc2reader's. They are told apart by their names, its class names.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

COMMANDS = (
  "BasicCommandEvent",
  "DataCommandEvent",
  "TargetPointCommandEvent",
  "TargetUnitCommandEvent",
)
# What a user does, as far as it matters here.
INPUTS = (
  *COMMANDS,
  "SelectionEvent",
  "GetControlGroupEvent",
  "SetControlGroupEvent",
  "AddToControlGroupEvent",
  "DeleteControlGroupEvent",
)
_ACTIVE = 10  # The number of the selection among the control groups.
# Points and areas on the map that the players mark. They are no units.
_MARKER = "Beacon"
_INDEX_SHIFT = 18  # A unit's ID is its index, which is reused, and a count.


class Unit(NamedTuple):
  """A unit.

  Attributes:
    type_name: name of its present type.
    owner: number of the player who controls it; 0 for nobody.
    x: position in game units; that of its birth until another is recorded.
    y: the same.
    is_complete: whether it has been built.
  """

  type_name: str
  owner: int
  x: float
  y: float
  is_complete: bool


class Units:
  """The units of a game, in the order of their births.

  Attributes:
    by_id: the living units.
  """

  def __init__(self):
    self.by_id: dict[int, Unit] = {}
    self._ids: dict[int, int] = {}  # By index.

  def update(self, event: Any) -> None:
    """Applies an event; those on unknown units are ignored."""
    if event.name in ("UnitBornEvent", "UnitInitEvent"):
      self._add(event, is_complete=event.name == "UnitBornEvent")
    elif event.name == "UnitDiedEvent":
      self.by_id.pop(event.unit_id, None)
    elif event.name == "UnitDoneEvent":
      self._change(event.unit_id, is_complete=True)
    elif event.name == "UnitTypeChangeEvent":
      self._change(event.unit_id, type_name=event.unit_type_name)
    elif event.name == "UnitOwnerChangeEvent":
      self._change(event.unit_id, owner=event.control_pid)
    elif event.name == "UnitPositionsEvent":
      for index, (x, y) in event.positions:
        self._change(self._ids.get(index), x=x, y=y)

  def _add(self, event: Any, is_complete: bool) -> None:
    name = event.unit_type_name
    if not name.startswith(_MARKER):
      self.by_id[event.unit_id] = Unit(
        name, event.control_pid, event.x, event.y, is_complete
      )
      self._ids[event.unit_id >> _INDEX_SHIFT] = event.unit_id

  def _change(self, unit_id: int | None, **values: Any) -> None:
    if unit_id in self.by_id:
      self.by_id[unit_id] = self.by_id[unit_id]._replace(**values)


class User:
  """The selection, the control groups and the last target of a user.

  Attributes:
    target: ID of the unit that the last command was aimed at, or None.
  """

  def __init__(self):
    self.target: int | None = None
    # IDs with what the game orders them by.
    self._groups: dict[int, dict[int, tuple[int, ...]]] = {}

  @property
  def selected(self) -> list[int]:
    """Returns the IDs of the selected units, in about the game's order."""
    return _ordered(self._groups.get(_ACTIVE, {}))

  def update(self, event: Any) -> None:
    """Applies a selection, a change of a control group or a command."""
    if event.name in COMMANDS:
      self.target = getattr(event, "target_unit_id", None)
    elif event.name == "SelectionEvent":
      number = event.control_group
      added = {
        unit_id: (-priority, unit_type, within, unit_id)
        for unit_id, unit_type, priority, within in event.new_unit_info
      }
      self._groups[number] = {**self._kept(number, event), **added}
    elif event.name == "GetControlGroupEvent":
      self._groups[_ACTIVE] = self._kept(event.control_group, event)
    elif event.name == "SetControlGroupEvent":
      self._groups[event.control_group] = dict(self._groups.get(_ACTIVE, {}))
    elif event.name == "AddToControlGroupEvent":
      number = event.control_group
      self._groups[number] = {
        **self._kept(number, event),
        **self._groups.get(_ACTIVE, {}),
      }
    elif event.name == "DeleteControlGroupEvent":
      self._groups.pop(event.control_group, None)

  def _kept(self, number: int, event: Any) -> dict[int, tuple[int, ...]]:
    """Returns a group without the units that the event removes from it."""
    group = self._groups.get(number, {})
    ids, data = _ordered(group), event.mask_data
    if event.mask_type == "Mask":
      removed = [i for i, is_removed in zip(ids, data) if is_removed]  # noqa: B905 (a mask may be shorter)
    elif event.mask_type == "OneIndices":
      removed = [ids[place] for place in data if place < len(ids)]
    elif event.mask_type == "ZeroIndices":
      removed = [i for place, i in enumerate(ids) if place not in set(data)]
    else:
      removed = []
    return {i: group[i] for i in group if i not in set(removed)}


def _ordered(group: Mapping[int, tuple[int, ...]]) -> list[int]:
  return sorted(group, key=group.__getitem__)
