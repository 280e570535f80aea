"""Windows of clips, generated and of files, good and bad."""

import logging
import pickle

import numpy as np
import pytest
import tiny_clips as making

from perceiver_jax.data import (
  clip_files,
  clip_sources,
  clips,
  generated_clips,
  pipeline,
)
from perceiver_jax.data.clips import Window
from perceiver_jax.errors import UserError

WINDOW = Window(8, 25.0, 8 * 1920, 48_000, (16, 16))
SILENT = WINDOW._replace(num_samples=0)
SOUND = WINDOW._replace(num_frames=0)


class Few:
  """Three clips that tell where they were read; clip 1 cannot be."""

  class_names = ("a", "b", "c")
  labels = ((0,), (1,), (0, 2))
  in_memory = True

  def __len__(self):
    return 3

  def read(self, index, window, place):
    if index == 1:
      raise UserError("'one.mp4' is damaged")
    return {"image": np.float32([index, place])}


# Windows


def test_evaluation_sees_evenly_spaced_windows_of_every_clip():
  source = clips.even_windows(Few(), WINDOW, 4)
  assert len(source) == 12
  places = [source[i]["image"].tolist() for i in (0, 3, 6, 9)]
  assert places == [
    [0, 0],
    [0, np.float32(1 / 3)],
    [0, np.float32(2 / 3)],
    [0, 1],
  ]
  np.testing.assert_array_equal(source[2]["label"], [1, 0, 1])
  assert clips.even_windows(Few(), WINDOW, 1)[0]["image"][1] == 0.5


def test_a_bad_clip_does_not_count_in_evaluation(caplog):
  source = clips.even_windows(Few(), WINDOW, 2)
  with caplog.at_level(logging.WARNING):
    (batch,) = pipeline.eval_dataset(source, global_batch=6)
  np.testing.assert_array_equal(batch["mask"], [1, 0, 1, 1, 0, 1])
  assert "'one.mp4' is damaged; the next clip takes its place" in caplog.text


def test_training_sees_random_windows_and_counts_bad_clips():
  source = clips.RandomWindows(Few(), WINDOW)
  rng = np.random.default_rng(0)
  found = [source.read(source[i % 3], rng) for i in range(30)]
  assert sum(each["unreadable"] for each in found) == 10
  places = np.array([each["image"][1] for each in found])
  assert len(set(places.tolist())) == 30
  assert places.min() < 0.1
  assert places.max() > 0.9
  assert {each["image"][0] for each in found} == {0, 2}


def test_too_many_bad_clips_are_an_error():
  class Bad(Few):
    labels = ((0,),) * 30

    def __len__(self):
      return 30

    def read(self, index, window, place):
      raise UserError(f"{index} is bad")

  source = clips.RandomWindows(Bad(), WINDOW)
  with pytest.raises(UserError, match="11 clips cannot be read"):
    source.read({"clip": 0}, np.random.default_rng(0))


def test_balanced_classes_come_equally_often():
  labels = [(0,)] * 90 + [(1,)] * 8 + [(1, 2), ()]
  order = clips.balanced_order(labels, 4)
  assert len(order) == 100
  first = order[np.arange(100) % 3 == 2]
  assert set(first) == {98}
  counts = [sum(c in labels[i] for i in order) for c in range(3)]
  assert min(counts) >= 33
  assert max(np.bincount(order[order < 90])) == 1
  with pytest.raises(UserError, match="no clip has a class"):
    clips.balanced_order([(), ()], 2)


def test_a_window_is_checked():
  good = {"num_frames": 8, "fps": 25.0, "num_samples": 9, "sample_rate": 3,
          "image_size": (4, 5)}  # fmt: skip
  assert clips.check_window(good) == Window(8, 25.0, 9, 3, (4, 5))
  for leaf, value in (("fps", 0.0), ("num_frames", 0), ("image_size", (4,))):
    with pytest.raises(UserError, match=leaf):
      clips.check_window({**good, leaf: value})


# Generated


def test_a_generated_clip_is_the_same_at_every_reading():
  source = generated_clips.generated("test", num_test=40)
  whole = Window(50, 25.0, 96_000, 48_000, (24, 24))
  first = source.read(3, whole, 0.0)
  again = pickle.loads(pickle.dumps(source)).read(3, whole, 0.0)
  np.testing.assert_array_equal(first["image"], again["image"])
  # The last of 3 seconds is what a window at its end shows.
  part = source.read(3, Window(25, 25.0, 0, 1, (24, 24)), 0.5)
  np.testing.assert_array_equal(part["image"], first["image"][25:])
  other = generated_clips.generated("train", num_train=40).read(3, whole, 0.0)
  assert np.any(other["image"] != first["image"])


def test_neither_pictures_nor_sound_alone_say_what_a_generated_clip_is():
  source = generated_clips.generated("train", num_train=900)
  assert len(source.class_names) == 15
  labels = np.array(source.labels)
  assert labels.shape == (900, 3)
  # Every pair of a shape and a sound, equally often.
  pairs, counts = np.unique(labels, axis=0, return_counts=True)
  assert len(pairs) == 9
  assert set(counts) == {100}
  for shape, sound, pair in pairs:
    names = [source.class_names[i] for i in (shape, sound, pair)]
    assert names[2] == f"{names[0]} with {names[1]}"


def test_shapes_and_sounds_are_what_their_names_say():
  source = generated_clips.generated("train", num_train=27)
  window = Window(1, 25.0, 48_000, 48_000, (64, 64))
  for i, (shape, sound, _) in enumerate(source.labels):
    found = source.read(i, window, 0.0)
    bright = found["image"][0].mean(-1)
    inside = bright > (bright.min() + bright.max()) / 2
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    want = {"disc": 0, "tall bar": 1, "wide bar": -1}
    assert (
      np.sign(rows // (2 * columns) - columns // (2 * rows))
      == want[source.class_names[shape]]
    )
    wave = found["audio"][:, 0]
    pitch = np.abs(np.fft.rfft(wave)).argmax()
    low, high = {"low tone": (149, 301), "high tone": (999, 2001)}.get(
      source.class_names[sound], (430, 670)
    )
    assert low <= pitch <= high
    quiet = np.abs(wave).reshape(-1, 480).max(1) < 0.1
    assert (quiet.mean() > 0.2) == (source.class_names[sound] == "beeps")


def test_generated_clips_can_be_just_pairs():
  source = clip_sources.make_clips(
    "generated", split="test", num_test=9, pairs_only=True
  )
  assert sorted(source.labels) == [(i,) for i in range(9)]
  with pytest.raises(UserError, match="train, test"):
    generated_clips.generated("validation")
  with pytest.raises(UserError, match="more than 0"):
    generated_clips.generated("train", num_train=0)
  with pytest.raises(UserError, match=r"at most 1\.5"):
    generated_clips.generated("train", scale=2.0)


# Files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Clips of two classes in folders, some of them bad."""
  root = tmp_path_factory.mktemp("clips")
  making.write_clip(root / "train" / "b" / "good.mp4")
  making.write_clip(root / "train" / "a" / "good.mp4")
  making.write_clip(root / "train" / "a" / "silent.mp4", sound=False)
  making.write_clip(root / "train" / "a" / "short.mp4", seconds=0.2)
  making.cut(making.write_clip(root / "train" / "a" / "truncated.mp4"))
  making.corrupt(making.write_clip(root / "train" / "a" / "corrupt.mp4"))
  (root / "train" / "a" / "empty.mp4").write_bytes(b"")
  (root / "train" / "a" / ".hidden.mp4").write_bytes(b"")
  making.write_sound(root / "train" / "b" / "8k.wav", 2, 8_000, 1)
  making.write_sound(root / "train" / "b" / "96k.flac", 2, 96_000, 2)
  return root


def _index(source, name):
  names = [segment.path.rpartition("/")[2] for segment in source.segments]
  return names.index(name)


def test_clips_in_folders_of_classes(folder):
  source = clip_files.files(folder, "train")
  assert source.class_names == ("a", "b")
  assert len(source) == 9
  assert source.labels[_index(source, "8k.wav")] == (1,)


@pytest.mark.parametrize(("place", "first"), [(0.0, 0), (0.5, 21), (1.0, 42)])
def test_pictures_and_sound_are_of_the_same_moment(folder, place, first):
  source = clip_files.files(folder, "train")
  index = _index(source, "good.mp4")
  found = source.read(index, WINDOW, place)
  assert found["image"].shape == (8, 16, 16, 3)
  assert found["image"].dtype == np.uint8
  levels = found["image"].mean((1, 2, 3)) / 4
  np.testing.assert_allclose(levels, first + np.arange(8), atol=0.7)
  assert found["audio"].shape == (15_360, 1)
  want = making.tone(2)[first * 1920 :][:15_360]
  assert np.abs(found["audio"] - want)[2000:-2000].max() < 0.05


@pytest.mark.parametrize(
  ("name", "window", "why"),
  [
    ("silent.mp4", WINDOW, "has no audio track"),
    ("short.mp4", WINDOW, "5 frames|0.2. seconds"),
    ("truncated.mp4", WINDOW, "damaged|incomplete"),
    ("empty.mp4", WINDOW, "is empty"),
    ("8k.wav", WINDOW, "has no video track"),
  ],
)
def test_bad_clips_are_named(folder, name, window, why):
  source = clip_files.files(folder, "train")
  with pytest.raises(UserError, match=why) as error:
    source.read(_index(source, name), window, 0.5)
  assert name in str(error.value)


def test_corrupt_frames_end_in_an_error_or_in_pictures(folder):
  source = clip_files.files(folder, "train")
  index = _index(source, "corrupt.mp4")
  outcomes = []
  for place in (0.0, 0.5, 1.0):
    try:
      outcomes.append(source.read(index, WINDOW, place)["image"].shape)
    except UserError as error:
      outcomes.append("corrupt.mp4" in str(error))
  assert set(outcomes) <= {(8, 16, 16, 3), True}
  assert True in outcomes


@pytest.mark.parametrize("name", ["8k.wav", "96k.flac"])
def test_sound_of_any_rate_comes_at_one(folder, name):
  source = clip_files.files(folder, "train")
  found = source.read(_index(source, name), SOUND, 0.25)
  assert found.keys() == {"audio"}
  assert found["audio"].shape == (15_360, 1)
  start = round(0.25 * (2 - 0.32) * 48_000)
  want = making.tone(2)[start:][:15_360]
  assert np.abs(found["audio"] - want)[1000:-1000].max() < 0.02


def test_pictures_alone_need_no_sound(folder):
  source = clip_files.files(folder, "train")
  found = source.read(_index(source, "silent.mp4"), SILENT, 1.0)
  assert found.keys() == {"image"}


def test_frames_of_a_varying_rate_come_when_they_are_shown(tmp_path):
  shown = [0, 40, 400, 440, 480, 900, 1000]
  path = making.write_variable(tmp_path / "x.mkv", shown)
  segment = clip_files.Segment(str(path))
  window = Window(10, 10.0, 0, 1, (16, 16))
  found = clip_files.read_window(segment, window, 0.0)["image"]
  want = [0, 1, 1, 1, 2, 4, 4, 4, 4, 5]
  np.testing.assert_allclose(found.mean((1, 2, 3)) / 4, want, atol=0.7)


def test_a_folder_with_bad_clips_can_be_trained_on(folder):
  source = clips.RandomWindows(clip_files.files(folder, "train"), WINDOW)
  dataset = pipeline.train_dataset(
    source, global_batch=9, seed=0, transform=source.read, shuffle=False
  )
  iterator = iter(dataset)
  batch = next(iterator)
  iterator.close()
  assert batch["image"].shape == (9, 8, 16, 16, 3)
  assert batch["unreadable"].sum() == 7
  assert batch["label"].sum() == 9


# Lists


AUDIOSET = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=4, num_segs=4
# YTID, start_seconds, end_seconds, positive_labels
-one, 30.000, 40.000, "/m/x,/m/y"
_two, 0.000, 10.000, "/m/y"
gone, 5.000, 15.000, "/m/x"
"""
CLASSES = """index,mid,display_name
0,/m/x,"Speech, talk"
1,/m/y,Music
"""


@pytest.fixture
def audioset(tmp_path):
  (tmp_path / "balanced.csv").write_text(AUDIOSET)
  (tmp_path / "class_labels_indices.csv").write_text(CLASSES)
  (tmp_path / "a").mkdir()
  (tmp_path / "a" / "-one_30000_40000.mp4").touch()
  (tmp_path / "Y_two.wav").touch()
  return tmp_path


def test_audiosets_list(audioset, caplog):
  with caplog.at_level(logging.WARNING):
    source = clip_files.files(audioset, "balanced")
  assert source.class_names == ("Speech, talk", "Music")
  assert source.labels == ((0, 1), (1,))
  assert [segment.start for segment in source.segments] == [0, 0]
  assert source.missing == ("gone",)
  assert "1 of 3 clips have no file and are left out" in caplog.text
  assert "gone" in caplog.text


def test_parts_of_whole_videos(audioset):
  source = clip_files.files(audioset, "balanced", cut=False)
  assert source.segments[0][1:] == (30, 40)


def test_a_part_ends_where_the_list_says(tmp_path):
  path = making.write_clip(tmp_path / "x.mp4", 3.0)
  segment = clip_files.Segment(str(path), 1.0, 2.0)
  found = clip_files.read_window(segment, SILENT, 1.0)["image"]
  levels = found.mean((1, 2, 3)) / 4
  np.testing.assert_allclose(levels, 42 + np.arange(8), atol=0.7)


@pytest.mark.parametrize(
  "name", ["v-1_000015_000025", "v-1_15.000_25.000", "v-1_15", "v-1", "Yv-1"]
)
def test_kinetics_list(tmp_path, name):
  lines = ["label,youtube_id,time_start,time_end,split"]
  (tmp_path / "train.csv").write_text(
    "\n".join([*lines, "zumba,v-1,15,25,train", "abseiling,w,0,10,train"])
  )
  (tmp_path / "validate.csv").write_text(
    "\n".join([*lines, "making tea,w,0,10,validate"])
  )
  (tmp_path / f"{name}.webm").touch()
  source = clip_files.files(tmp_path, "train")
  # Of all lists, so that a label means the same in each.
  assert source.class_names == ("abseiling", "making tea", "zumba")
  assert source.labels == ((2,),)


def test_a_list_of_ones_own(tmp_path):
  (tmp_path / "mine.csv").write_text(
    "file,label\na/x.mp4,bird;wind\nb.mp4,wind"
  )
  (tmp_path / "a").mkdir()
  (tmp_path / "a" / "x.mp4").touch()
  source = clip_files.files(tmp_path, "mine")
  assert source.class_names == ("bird", "wind")
  assert source.labels == ((0, 1),)
  (tmp_path / "classes.txt").write_text("wind\n")
  with pytest.raises(UserError, match=r"class 'bird'.*none of the 1 known"):
    clip_files.files(tmp_path, "mine", str(tmp_path / "classes.txt"))


@pytest.mark.parametrize(
  ("content", "why"),
  [
    ("file,tag\na.mp4,x", "line 2 of .*expected the columns"),
    ("# YTID, start_seconds, end_seconds, positive_labels\na, b, c, d",
     "line 2 of .*could not convert"),
    ("file,label\nnone.mp4,x", "none of the 1 clips"),
    ("", "none of the 0 clips"),
    (b"\xff\xfe\x00", "is no CSV"),
  ],
)  # fmt: skip
def test_bad_lists_are_refused(tmp_path, content, why):
  data = content if isinstance(content, bytes) else content.encode()
  (tmp_path / "x.csv").write_bytes(data)
  (tmp_path / "classes.txt").write_text("x\n")
  with pytest.raises(UserError, match=why):
    clip_files.files(tmp_path, "x", str(tmp_path / "classes.txt"))


def test_missing_folders_are_refused(tmp_path):
  for given, why in (("", "no directory is given"), ("x", "no directory")):
    with pytest.raises(UserError, match=why):
      clip_files.files(given and tmp_path / given, "train")
  with pytest.raises(UserError, match=r"neither train.csv nor the folder"):
    clip_files.files(tmp_path, "train")
  (tmp_path / "train" / "a").mkdir(parents=True)
  with pytest.raises(UserError, match="no clip in"):
    clip_files.files(tmp_path, "train")
  (tmp_path / "twice.txt").write_text("a\na\n")
  with pytest.raises(UserError, match="1 different classes in 2 lines"):
    clip_files.files(tmp_path, "train", str(tmp_path / "twice.txt"))
