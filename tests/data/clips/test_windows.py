"""Windows of clips, generated and of files, good and bad."""

import itertools
import logging
import pickle

import numpy as np
import pytest
import tiny_clips

from perceiver_jax.data.clips import av_decoding, shard_writer, windows
from perceiver_jax.data.clips import files as clip_files
from perceiver_jax.data.clips import generated as generated_clips
from perceiver_jax.data.clips import sources as clip_sources
from perceiver_jax.data.clips.windows import Window
from perceiver_jax.data.core import pipeline
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


class Fifty(Few):
  """The same, and 47 good ones."""

  labels = ((0,),) * 50

  def __len__(self):
    return 50


# Windows


def test_evaluation_sees_evenly_spaced_windows_of_every_clip():
  source = windows.even_windows(Few(), WINDOW, 4)
  assert len(source) == 12
  places = [source[i]["image"].tolist() for i in (0, 3, 6, 9)]
  assert places == [
    [0, 0],
    [0, np.float32(1 / 3)],
    [0, np.float32(2 / 3)],
    [0, 1],
  ]
  np.testing.assert_array_equal(source[2]["label"], [1, 0, 1])
  assert windows.even_windows(Few(), WINDOW, 1)[0]["image"][1] == 0.5


def test_a_bad_clip_does_not_count_in_evaluation(caplog):
  source = windows.even_windows(Few(), WINDOW, 2)
  with caplog.at_level(logging.WARNING):
    (batch,) = pipeline.eval_dataset(source, global_batch=6)
  np.testing.assert_array_equal(batch["mask"], [1, 0, 1, 1, 0, 1])
  assert "'one.mp4' is damaged; the next clip takes its place" in caplog.text


def test_windows_of_a_bad_clip_count_and_are_named_once(caplog):
  source = windows.even_windows(Fifty(), WINDOW, 16)
  copy = pickle.loads(pickle.dumps(source))
  for each in (source, copy):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
      found = [each[i]["unreadable"] for i in range(len(each))]
    assert sum(found) == 16
    assert caplog.text.count("'one.mp4' is damaged") == 1


@pytest.mark.parametrize(("share", "good"), [(0.3, True), (0.2, False)])
def test_the_share_of_bad_clips_can_be_set(share, good):
  class Half(Uneven):
    def read(self, index, window, place):
      if index % 4 == 3:
        raise UserError(f"{index} is bad")
      return super().read(index, window, place)

  random = windows.RandomWindows(Half(), WINDOW, max_unreadable=share)
  rng = np.random.default_rng(0)
  source = windows.even_windows(Half(), WINDOW, 2, share)
  read_all = (
    lambda: [source[i] for i in range(200)],
    lambda: [random.read(random[i], rng) for i in range(100)],
  )
  for read in read_all:
    if good:
      assert np.mean([each["unreadable"] for each in read()]) == 0.25
    else:
      with pytest.raises(UserError, match="clips cannot be read"):
        read()


def test_training_sees_random_windows_and_counts_bad_clips():
  source = windows.RandomWindows(Few(), WINDOW)
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

  source = windows.RandomWindows(Bad(), WINDOW)
  with pytest.raises(UserError, match="11 clips cannot be read"):
    source.read({"clip": 0}, np.random.default_rng(0))


class Uneven(Few):
  """A hundred clips that say which they are: 90, 9 and 1 of a class."""

  class_names = ("a", "b", "c", "none")
  labels = ((0,),) * 89 + ((1,),) * 8 + ((0, 1), (2,), ())

  def __len__(self):
    return 100

  def read(self, index, window, place):
    return {"image": np.float32([index, place])}


def _epochs(count, seed=0):
  """Numbers and labels of the clips of epochs that are balanced."""
  source = windows.RandomWindows(Uneven(), WINDOW, balanced=True)
  dataset = pipeline.train_dataset(
    source, global_batch=100, seed=seed, transform=source.read
  )
  batches = list(itertools.islice(dataset, count))
  return (
    np.concatenate([batch["image"][:, 0].astype(int) for batch in batches]),
    np.concatenate([batch["label"] for batch in batches]),
  )


def test_balanced_classes_come_equally_often_and_all_clips_come():
  numbers, labels = _epochs(15)
  # By turns: of a class, or of another whose clip is of both.
  assert labels.sum(0)[2] == 15 * 33
  assert min(labels.sum(0)[:2]) >= 15 * 33
  assert set(numbers) == set(range(99))
  # Epochs differ, and the same run is the same.
  assert np.any(np.sort(numbers[:100]) != np.sort(numbers[100:200]))
  np.testing.assert_array_equal(_epochs(2)[0], numbers[:200])
  assert np.any(_epochs(2, seed=1)[0] != numbers[:200])


def test_classes_cannot_be_balanced_without_any():
  class Unlabelled(Few):
    labels = ((), (), ())

  with pytest.raises(UserError, match="no clip has a class"):
    windows.RandomWindows(Unlabelled(), WINDOW, balanced=True)


def test_a_window_is_checked():
  good = {"num_frames": 8, "fps": 25.0, "num_samples": 9, "sample_rate": 3,
          "image_size": (4, 5)}  # fmt: skip
  assert windows.check_window(good) == Window(8, 25.0, 9, 3, (4, 5))
  for leaf, value in (("fps", 0.0), ("num_frames", 0), ("image_size", (4,))):
    with pytest.raises(UserError, match=leaf):
      windows.check_window({**good, leaf: value})


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
  tiny_clips.write_clip(root / "train" / "b" / "good.mp4")
  tiny_clips.write_clip(root / "train" / "a" / "good.mp4")
  tiny_clips.write_clip(root / "train" / "a" / "silent.mp4", audio=False)
  tiny_clips.write_clip(root / "train" / "a" / "short.mp4", seconds=0.2)
  tiny_clips.truncate(
    tiny_clips.write_clip(root / "train" / "a" / "truncated.mp4")
  )
  tiny_clips.corrupt(
    tiny_clips.write_clip(root / "train" / "a" / "corrupt.mp4")
  )
  (root / "train" / "a" / "empty.mp4").write_bytes(b"")
  (root / "train" / "a" / ".hidden.mp4").write_bytes(b"")
  tiny_clips.write_audio(root / "train" / "b" / "8k.wav", 2, 8_000, 1)
  tiny_clips.write_audio(root / "train" / "b" / "96k.flac", 2, 96_000, 2)
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
  want = tiny_clips.tone(2)[first * 1920 :][:15_360]
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
  want = tiny_clips.tone(2)[start:][:15_360]
  assert np.abs(found["audio"] - want)[1000:-1000].max() < 0.02


def test_pictures_alone_need_no_sound(folder):
  source = clip_files.files(folder, "train")
  found = source.read(_index(source, "silent.mp4"), SILENT, 1.0)
  assert found.keys() == {"image"}


def test_frames_of_a_varying_rate_come_when_they_are_shown(tmp_path):
  shown = [0, 40, 400, 440, 480, 900, 1000]
  path = tiny_clips.write_variable_rate(tmp_path / "x.mkv", shown)
  segment = clip_files.Segment(str(path))
  window = Window(10, 10.0, 0, 1, (16, 16))
  found = clip_files.read_window(segment, window, 0.0)["image"]
  want = [0, 1, 1, 1, 2, 4, 4, 4, 4, 5]
  np.testing.assert_allclose(found.mean((1, 2, 3)) / 4, want, atol=0.7)


def test_a_folder_with_bad_clips_can_be_trained_on(folder):
  source = windows.RandomWindows(clip_files.files(folder, "train"), WINDOW)
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
  assert "1 of 3 clips have no file and are skipped" in caplog.text
  assert "gone" in caplog.text


def test_parts_of_whole_videos(audioset):
  source = clip_files.files(audioset, "balanced", trimmed=False)
  assert source.segments[0][1:] == (30, 40, 10)


def test_a_part_ends_where_the_list_says(tmp_path):
  path = tiny_clips.write_clip(tmp_path / "x.mp4", 3.0)
  segment = clip_files.Segment(str(path), 1.0, 2.0)
  found = clip_files.read_window(segment, SILENT, 1.0)["image"]
  levels = found.mean((1, 2, 3)) / 4
  np.testing.assert_allclose(levels, 42 + np.arange(8), atol=0.7)


@pytest.mark.parametrize(("place", "first"), [(0.0, 0), (0.5, 21), (1.0, 42)])
def test_a_file_that_does_not_say_how_long_it_is_is_measured(
  tmp_path, place, first
):
  path = tiny_clips.write_without_duration(tmp_path / "live.mkv")
  with av_decoding.opened(path, "video") as track:
    assert not track.duration
    assert not track.container.duration
  segment = clip_files.Segment(str(path))
  assert clip_files.seconds(segment, "video") == pytest.approx(2, abs=0.05)
  found = clip_files.read_window(segment, SILENT, place)["image"]
  levels = found.mean((1, 2, 3)) / 4
  np.testing.assert_allclose(levels, first + np.arange(8), atol=0.7)


def test_a_part_after_the_end_is_refused(tmp_path):
  path = str(tiny_clips.write_clip(tmp_path / "x.mp4", 1.0))
  late = clip_files.Segment(path, 3.0, 13.0)
  settings = shard_writer.Settings(25.0, 48_000, 16, 90)
  for read in (
    lambda: clip_files.read_window(late, WINDOW, 0.5),
    lambda: shard_writer.read_whole(late, settings),
  ):
    with pytest.raises(UserError, match=r"x.mp4' ends after 1.* at 3.00"):
      read()


def test_a_clip_without_frames_is_not_prepared(tmp_path, monkeypatch):
  path = str(tiny_clips.write_clip(tmp_path / "x.mp4", 1.0))
  monkeypatch.setattr(
    "perceiver_jax.data.clips.video.frames", lambda *_: iter(())
  )
  settings = shard_writer.Settings(25.0, 48_000, 16, 90)
  with pytest.raises(UserError, match=r"x.mp4' has no frame from second 0"):
    shard_writer.read_whole(clip_files.Segment(path), settings)


@pytest.mark.parametrize("trimmed", [True, False])
def test_clips_shorter_than_listed_are_reported(tmp_path, trimmed, caplog):
  header = "label,youtube_id,time_start,time_end"
  (tmp_path / "train.csv").write_text(f"{header}\na,v,0,5\nb,w,0,2.5\n")
  tiny_clips.write_clip(tmp_path / "v.mp4", 2.0)
  tiny_clips.write_clip(tmp_path / "w.mp4", 2.0)
  source = clip_files.files(tmp_path, "train", trimmed=trimmed)
  with caplog.at_level(logging.WARNING):
    for _ in range(3):
      source.read(0, WINDOW, 1.0)
      source.read(1, WINDOW, 1.0)
  assert caplog.text.count("v.mp4' has 2.00 of the 5.00 seconds") == 1
  assert "w.mp4" not in caplog.text


@pytest.mark.parametrize(
  "name",
  [
    "v-1_000015_000025",
    "v-1_15.000_25.000",
    "v-1_15",
    "v-1",
    "Yv-1",
    "Yv-1_15.000_25.000",
    "Yv-1_15000_25000",
  ],
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


def test_lists_without_labels_say_no_classes(tmp_path, caplog):
  (tmp_path / "train.csv").write_text(
    "label,youtube_id,time_start,time_end,split\nzumba,v,15,25,train\n"
  )
  (tmp_path / "test.csv").write_text(
    "youtube_id,time_start,time_end,split\nw,0,10,test\n"
  )
  (tmp_path / "v.mp4").touch()
  (tmp_path / "w.mp4").touch()
  with caplog.at_level(logging.WARNING):
    source = clip_files.files(tmp_path, "train")
  assert source.class_names == ("zumba",)
  assert "test.csv' has no column 'label'" in caplog.text
  with pytest.raises(UserError, match=r"test.csv' has no column 'label'"):
    clip_files.files(tmp_path, "test")


def _one(root, **given):
  (root / "mine.csv").write_text(
    "label,youtube_id,time_start,time_end\na,v,0,1"
  )
  (segment,) = clip_files.files(root, "mine", **given).segments
  return segment.path.removeprefix(f"{root}/")


@pytest.mark.parametrize("names", [("a/v.wav", "b/v.MP4"), ("v.mkv", "v.flac")])
def test_the_file_with_what_is_wanted_is_taken(tmp_path, names):
  for name in names:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  sound, video = sorted(names, key=lambda x: x.endswith(("MP4", "mkv")))
  assert _one(tmp_path) == video
  assert _one(tmp_path, prefer_video=False) == sound
  (tmp_path / video).unlink()
  assert _one(tmp_path) == sound


def test_folders_are_looked_into_by_name_and_through_links(tmp_path):
  root = tmp_path / "root"
  for name in ("z", "c", "x", "a"):
    (root / name).mkdir(parents=True)
  (root / "up").symlink_to(root)
  far = tmp_path / "far" / "away"
  far.mkdir(parents=True)
  (far / "v.mp4").touch()
  (root / "b").symlink_to(far.parent)
  assert _one(root) == "b/away/v.mp4"
  for name in ("z", "c", "x"):
    (root / name / "v.mp4").touch()
  assert _one(root) == "b/away/v.mp4"
  (root / "a" / "v.mp4").touch()
  assert _one(root) == "a/v.mp4"


def test_folders_without_clips_are_no_classes(tmp_path):
  for name in ("train/a/x.mp4", "train/notes/x.txt", "test/b/y.mp4", ".g/c/z"):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
  source = clip_files.files(tmp_path, "train")
  assert source.class_names == ("a", "b")


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
  with pytest.raises(UserError, match=r"class 'bird'.*not one of the 1 known"):
    clip_files.files(tmp_path, "mine", str(tmp_path / "classes.txt"))


@pytest.mark.parametrize(
  ("content", "why"),
  [
    ("file,tag\na.mp4,x", "x.csv' has no column 'label'; expected the columns"),
    ("file,label\na.mp4", "line 2 of .*KeyError"),
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
  for given, why in (("", "no directory is set"), ("x", "no directory")):
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
