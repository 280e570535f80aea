"""Writes the metrics, images and small JSON files of a run.

A run that was killed and resumed leaves the same `metrics.jsonl` as one that
was not interrupted: lines after the restored step are removed first. The loop
must therefore write a step's line before it saves the step's checkpoint.
"""

import json
import math
import os
import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perceiver_jax import files, growing_folder
from perceiver_jax.errors import UserError
from perceiver_jax.viz.image_layout import png_bytes

# Interval between TensorBoard flushes, each of which waits for the disk.
_FLUSH_SECONDS = 20


def write_json(path: str | os.PathLike, obj: Any) -> None:
  """Writes a JSON file atomically.

  Arrays are written as lists, and NaN and infinite numbers as null.

  Args:
    path: the file to create or replace.
    obj: mappings, sequences, numbers, strings, arrays and paths, nested.

  Raises:
    TypeError: if a value has no JSON form.
  """
  text = json.dumps(_plain(obj), indent=2, allow_nan=False)
  replace_text(files.as_path(path), text + "\n")


def replace_text(path: Path, text: str) -> None:
  """Writes a file of UTF-8 atomically, and to the disk before it appears."""
  with (
    files.replacing(path) as partial,
    open(partial, "w", encoding="utf-8") as file,
  ):
    file.write(text)
    file.flush()
    # Otherwise some file systems may commit the rename before the content.
    os.fsync(file.fileno())


def read_metrics(path: str | os.PathLike) -> list[dict[str, float]]:
  """Reads the records of a `metrics.jsonl`, oldest first; [] without a file.

  An incomplete last line, as left by `kill -9`, is skipped.

  Args:
    path: the file.

  Returns:
    One dict per line with 'step' (int) and values (float, NaN where null).

  Raises:
    UserError: if a line other than the last is not a record.
  """
  return [record for _, record in _records(files.as_path(path))]


class MetricsFile:
  """Appends JSON objects to `metrics.jsonl`, one per line."""

  def __init__(self, path: str | os.PathLike):
    self._path = files.as_path(path)
    self._folder = None
    self._file = None

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Appends `{"step": step, **values}` and flushes it.

    In a bucket it appears later; see `sync`.
    """
    if self._file is None:
      # Appending to an incomplete line would corrupt the new line as well.
      self.truncate_after(math.inf)
      self._folder = growing_folder.GrowingFolder(self._path.parent)
      local = self._folder.fetch(self._path.name)
      self._file = open(local, "a", encoding="utf-8")  # noqa: SIM115
    self._file.write(_line(step, values))
    self._file.flush()
    self._folder.sync()

  def sync(self) -> None:
    """Uploads what was written, if the file is in a bucket."""
    if self._folder is not None:
      self._folder.sync(now=True)

  def truncate_after(self, step: float) -> None:
    """Removes incomplete lines and those after `step`, atomically."""
    self.close()
    if self._path.exists():
      records = _records(self._path)
      kept = [line + "\n" for line, r in records if r["step"] <= step]
      replace_text(self._path, "".join(kept))

  def close(self) -> None:
    """Closes the file; a later `write` opens it again."""
    if self._file is not None:
      self._file.close()
      self._folder.close()
      self._file = self._folder = None


class MetricWriters:
  """Writes scalars and images to all outputs of a run.

  Outputs are `metrics.jsonl` and `images/`, and optionally TensorBoard and
  Weights & Biases. A run that starts at step 0 discards existing metrics,
  because a previous process may have stopped before its first checkpoint.

  Args:
    workdir: folder of the run; created if missing.
    resume_step: the restored step, or 0 for a new run.
    tensorboard: whether to write `tensorboard/` (with tensorboardX).
    wandb_project: Weights & Biases project; '' for none.
    run_name: name in Weights & Biases; '' lets it choose one.
    config: config of the run, shown by Weights & Biases.
    enabled: False (every process but the first) makes all calls do nothing.

  Raises:
    UserError: if a project is named and wandb is not installed.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    resume_step: int,
    tensorboard: bool,
    wandb_project: str = "",
    run_name: str = "",
    config: Mapping[str, Any] | None = None,
    enabled: bool = True,
  ):
    self._sinks = []
    if not enabled:
      return
    workdir = files.as_path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    if wandb_project:
      # Check this first, before any files change.
      sink = _Wandb(workdir, wandb_project, run_name, config)
      self._sinks.append(sink)
    self._sinks.append(_Files(workdir, resume_step))
    if tensorboard:
      self._sinks.append(_TensorBoard(workdir / "tensorboard", resume_step))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes numbers by name, such as {'train/loss': 0.1}."""
    values = {name: float(value) for name, value in values.items()}
    for sink in self._sinks:
      sink.scalars(step, values)

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes a uint8 image, [h, w], [h, w, 1] or [h, w, 3] (RGB)."""
    for sink in self._sinks:
      sink.image(step, name, image)

  def sync(self) -> None:
    """Uploads metrics that a bucket lacks; call it before a checkpoint."""
    for sink in self._sinks:
      sink.sync()

  def close(self) -> None:
    """Flushes and closes all outputs."""
    for sink in self._sinks:
      sink.close()


class _Files:
  def __init__(self, workdir: Path, resume_step: int):
    self._images = workdir / "images"
    self._metrics = MetricsFile(workdir / "metrics.jsonl")
    self._metrics.truncate_after(resume_step if resume_step > 0 else -1)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    self._metrics.write(step, values)

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    self._images.mkdir(exist_ok=True)
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "image"
    file = self._images / f"{stem}-{step:08d}.png"
    files.write_bytes(file, png_bytes(image))

  def sync(self) -> None:
    self._metrics.sync()

  def close(self) -> None:
    self._metrics.close()


class _TensorBoard:
  # Not tensorboardX's SummaryWriter, whose writing thread dies when the disk is
  # full; the run would then wait for it forever.

  def __init__(self, folder: Path, resume_step: int):
    from tensorboardX import event_file_writer, summary
    from tensorboardX.proto import event_pb2

    self._summary, self._proto = summary, event_pb2
    self._folder = growing_folder.GrowingFolder(folder)
    # Names are unique per second only; a quick restart must not reuse a file.
    self._file = event_file_writer.EventsWriter(
      str(self._folder.local / "events"), f".{resume_step}"
    )
    # TensorBoard hides earlier events at or after this step.
    purge_step = resume_step + 1 if resume_step > 0 else 0
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(purge_step, session_log=start)
    self._flush()

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
      self._add(step, summary=self._summary.scalar(name, value))
    if time.monotonic() - self._flushed > _FLUSH_SECONDS:
      self._flush()

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    layout = "HW" if image.ndim == 2 else "HWC"
    self._add(
      step, summary=self._summary.image(name, image, dataformats=layout)
    )

  def sync(self) -> None:
    """Does nothing: a resumed run writes later events again."""

  def close(self) -> None:
    self._file.close()
    self._folder.close()

  def _add(self, step: int, **content: Any) -> None:
    event = self._proto.Event(step=step, wall_time=time.time(), **content)
    self._file.write_event(event)

  def _flush(self) -> None:
    self._file.flush()
    self._folder.sync()
    self._flushed = time.monotonic()


class _Wandb:
  def __init__(
    self,
    workdir: Path,
    project: str,
    name: str,
    config: Mapping[str, Any] | None,
  ):
    try:
      import wandb
    except ImportError as error:
      raise UserError(
        f"wandb project {project!r} was given but wandb is not installed: "
        "pip install perceiver_jax[wandb], or leave the project empty"
      ) from error
    self._wandb = wandb
    self._run = wandb.init(
      project=project,
      name=name or None,
      config=_plain(config or {}),
      # wandb writes local files only; without a folder, to ./wandb.
      dir=None if files.is_remote(workdir) else str(workdir),
      id=_wandb_id(workdir / "wandb_id.txt"),
      resume="allow",
    )

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    self._run.log(dict(values), step=step)

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    self._run.log({name: self._wandb.Image(image)}, step=step)

  def sync(self) -> None:
    """Does nothing: wandb uploads by itself."""

  def close(self) -> None:
    self._run.finish()


def _wandb_id(path: Path) -> str:
  # Stored in the workdir, so that a resumed run continues the same run.
  if not path.exists():
    replace_text(path, uuid.uuid4().hex[:12])
  return path.read_text().strip()


def _line(step: int, values: Mapping[str, float]) -> str:
  numbers = {name: float(value) for name, value in values.items()}
  record = _plain({"step": int(step), **numbers})
  return json.dumps(record, allow_nan=False) + "\n"


def _records(path: Path) -> list[tuple[str, dict[str, float]]]:
  """Yields (line, record) pairs, with null values as NaN."""
  if not path.exists():
    return []
  try:
    text = files.read_bytes(path).decode("utf-8", errors="replace")
  except OSError as error:
    raise UserError(
      f"{path} can't be read: {error.strerror}; choose another --workdir"
    ) from error
  lines = text.rstrip().split("\n")
  pairs = []
  for number, line in enumerate(lines, start=1):
    record = _parse(line)
    if record is not None:
      pairs.append((line, record))
    elif line.strip() and number < len(lines):
      raise UserError(
        f"{path} line {number} is not a metrics record (a JSON object of "
        "numbers with 'step'): fix or delete the line, or choose another "
        "--workdir"
      )
  return pairs


def _parse(line: str) -> dict[str, float] | None:
  try:
    record = files.parse_json(line)
  except ValueError:
    return None
  if not isinstance(record, dict) or not isinstance(record.get("step"), int):
    return None
  record = {k: math.nan if v is None else v for k, v in record.items()}
  numbers = all(isinstance(v, int | float) for v in record.values())
  return record if numbers else None


def _plain(obj: Any) -> Any:
  """Converts nested mappings, sequences, arrays and numbers to JSON data."""
  if isinstance(obj, Mapping) or hasattr(obj, "items"):
    return {str(key): _plain(value) for key, value in obj.items()}
  if isinstance(obj, (list, tuple)):
    return [_plain(value) for value in obj]
  if hasattr(obj, "tolist"):
    return _plain(obj.tolist())
  if isinstance(obj, float) and not math.isfinite(obj):
    return None
  return os.fspath(obj) if isinstance(obj, os.PathLike) else obj
