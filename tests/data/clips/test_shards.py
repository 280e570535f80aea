"""Tests of stored clips and of the files that hold them."""

import json
import pickle

import numpy as np
import pytest
import tiny_clips
from array_record.python import array_record_module

from perceiver_jax.data.clips import shards as clip_shards
from perceiver_jax.data.clips import sources as clip_sources
from perceiver_jax.data.clips.windows import Window
from perceiver_jax.errors import UserError

RATES = (25.0, 48_000)
WINDOW = Window(8, 25.0, 8 * 1920, 48_000, (16, 16))


def record(frames=50, seconds=2.0):
  return clip_shards.encode(
    list(tiny_clips.gray_frames(frames)), tiny_clips.tone(seconds)
  )


@pytest.fixture
def directory(tmp_path):
  """Writes two clips in two files, of which the second is damaged."""
  index = {
    "files": {"train-0.array_record": 1, "train-1.array_record": 1},
    "names": ["one", "two"],
    "labels": [[0], [0, 1]],
    "class_names": ["a", "b"],
    "fps": 25.0,
    "sample_rate": 48_000,
  }
  for name, data in zip(index["files"], (record(), b"no clip"), strict=True):
    writer = array_record_module.ArrayRecordWriter(
      str(tmp_path / name), "group_size:1"
    )
    writer.write(data)
    writer.close()
  (tmp_path / "train.json").write_text(json.dumps(index))
  return tmp_path


@pytest.mark.parametrize(("place", "first"), [(0.0, 0), (0.5, 21), (1.0, 42)])
def test_any_window_of_a_stored_clip_is_decoded(place, first):
  window = clip_shards.decode(record(), WINDOW, place, RATES)
  assert window["image"].shape == (8, 16, 16, 3)
  levels = window["image"].mean((1, 2, 3)) / 4
  np.testing.assert_allclose(levels, first + np.arange(8), atol=0.5)
  expected = tiny_clips.tone(2)[first * 1920 :][:15_360]
  np.testing.assert_allclose(window["audio"], expected, atol=1e-4)


def test_frames_can_be_decoded_at_another_rate():
  window = Window(4, 6.25, 0, 1, ())
  frames = clip_shards.decode(record(), window, 0.0, RATES)["image"]
  assert frames.shape == (4, 32, 48, 3)
  levels = frames.mean((1, 2, 3)) / 4
  np.testing.assert_allclose(levels, [0, 4, 8, 12], atol=0.5)


def test_a_modality_that_is_not_stored_is_neither_returned_nor_made_up():
  silent = clip_shards.encode(list(tiny_clips.gray_frames(9)), np.zeros((0, 1)))
  window = WINDOW._replace(num_samples=0)
  assert clip_shards.decode(silent, window, 0, RATES).keys() == {"image"}
  # This window is shorter than the part that may be missing at the end.
  short = Window(2, 25.0, 1920, 48_000, (16, 16))
  nothing = clip_shards.encode([], tiny_clips.tone(1.0))
  for record_, window in (
    (silent, WINDOW),
    (silent, short),
    (nothing, short),
  ):
    with pytest.raises(UserError, match=r"0.00 seconds and not 0"):
      clip_shards.decode(record_, window, 0, RATES)


def test_a_short_part_may_be_missing_at_the_end():
  window = clip_shards.decode(record(6, 0.3), WINDOW, 0.5, RATES)
  levels = window["image"].mean((1, 2, 3)) / 4
  np.testing.assert_allclose(levels, [0, 1, 2, 3, 4, 5, 5, 5], atol=0.5)
  assert not window["audio"][-900:].any()
  for short in (record(2, 2.0), record(50, 0.1)):
    with pytest.raises(UserError, match="leave it out"):
      clip_shards.decode(short, WINDOW, 0.5, RATES)


def test_a_flipped_bit_is_detected():
  data = bytearray(record())
  data[len(data) // 2] ^= 1
  with pytest.raises(UserError, match="damaged"):
    clip_shards.decode(bytes(data), WINDOW, 0.5, RATES)


def test_prepared_clips_are_read_by_index_also_after_pickling(directory):
  source = _source(directory)
  assert source.labels == ((0,), (0, 1))
  assert source.class_names == ("a", "b")
  copy = pickle.loads(pickle.dumps(source))
  for each in (source, copy):
    assert each.read(0, WINDOW, 0.0)["image"].shape == (8, 16, 16, 3)
  with pytest.raises(UserError, match="clip 'two': damaged"):
    source.read(1, WINDOW, 0.0)
  with pytest.raises(UserError, match="48000 Hz and not 8000"):
    source.read(0, WINDOW._replace(sample_rate=8000), 0.0)


@pytest.mark.parametrize(
  ("rates", "window", "message"),
  [
    ({"fps": 0.0}, WINDOW._replace(num_samples=0), "--fps=0, without video"),
    (
      {"sample_rate": 0},
      WINDOW._replace(num_frames=0),
      "=0, without audio",
    ),
    ({"sample_rate": 8000}, WINDOW, "8000 Hz and not 48000"),
  ],
)
def test_a_track_that_was_not_prepared_is_an_error(
  directory, rates, window, message
):
  index = directory / "train.json"
  index.write_text(json.dumps({**json.loads(index.read_text()), **rates}))
  with pytest.raises(UserError, match=message):
    _source(directory).check_window(window)
  with pytest.raises(UserError, match=message):
    _source(directory).read(0, window, 0.0)


def _source(directory):
  return clip_sources.make_clips("shards", directory=directory, split="train")


def test_a_damaged_record_is_an_error_that_names_its_file(directory):
  path = directory / "train-0.array_record"
  data = bytearray(path.read_bytes())
  data[1000] ^= 1
  path.write_bytes(data)
  with pytest.raises(UserError, match=r"'one'.*train-0.*' is damaged \(Corr"):
    _source(directory).read(0, WINDOW, 0.0)
  # The other file is read as before.
  with pytest.raises(UserError, match="clip 'two': damaged"):
    _source(directory).read(1, WINDOW, 0.0)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_file_is_named(directory, share):
  path = directory / "train-1.array_record"
  data = path.read_bytes()
  path.write_bytes(data[: int(share * len(data))])
  for read in (
    lambda: _source(directory).read(0, WINDOW, 0.0),
    lambda: _source(directory).check_files(),
  ):
    with pytest.raises(UserError, match=r"1 of 2 files .*train-1") as error:
      read()
    assert "train-0" not in str(error.value)


def test_an_index_of_other_files_is_refused(directory):
  index = directory / "train.json"
  content = json.loads(index.read_text())
  one = {"labels": [[0]], "names": content["names"][:1]}
  index.write_text(json.dumps({**content, **one}))
  with pytest.raises(UserError, match="has 1 labels and files of 2 records"):
    _source(directory)
  content["files"]["train-0.array_record"] = 2
  three = {"labels": [[0]] * 3, "names": ["clip"] * 3}
  index.write_text(json.dumps({**content, **three}))
  with pytest.raises(UserError, match=r"1 of 2 files .*train-0"):
    _source(directory).check_files()


def test_missing_files_are_refused(directory):
  for folder in ("", directory / "x"):
    with pytest.raises(UserError, match=r"source_args\.shards\.directory"):
      clip_shards.shards(folder, "train")
  (directory / "train-1.array_record").unlink()
  with pytest.raises(UserError, match=r"1 of 2 files.*are missing"):
    clip_shards.shards(directory, "train")
  (directory / "train.json").write_text("{")
  with pytest.raises(UserError, match="can't be read"):
    clip_shards.shards(directory, "train")


@pytest.mark.parametrize("rate", [None, "25", -1, float("nan"), True])
def test_an_index_with_an_impossible_rate_is_refused(directory, rate):
  index = directory / "train.json"
  content = json.loads(index.read_text())
  index.write_text(json.dumps({**content, "fps": rate}))
  with pytest.raises(UserError, match=r"'train\.json' in .* has 'fps' and"):
    clip_shards.shards(directory, "train")
