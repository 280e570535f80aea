"""Tests of clips in folders of classes and in lists."""

import logging

import numpy as np
import pytest
import tiny_clips

from perceiver_jax.data.clips import av_decoding, shard_writer, windows
from perceiver_jax.data.clips import files as clip_files
from perceiver_jax.data.clips.windows import Window
from perceiver_jax.data.core import pipeline
from perceiver_jax.errors import UserError

WINDOW = Window(8, 25.0, 8 * 1920, 48_000, (16, 16))
SILENT = WINDOW._replace(num_samples=0)
AUDIO = WINDOW._replace(num_frames=0)

# Folders of classes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Writes clips of two classes, some of them damaged."""
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


def test_folders_of_clips_are_classes(folder):
  source = clip_files.files(folder, "train")
  assert source.class_names == ("a", "b")
  assert len(source) == 9
  assert source.labels[_index(source, "8k.wav")] == (1,)


@pytest.mark.parametrize(("place", "first"), [(0.0, 0), (0.5, 21), (1.0, 42)])
def test_image_and_audio_of_a_window_are_synchronous(folder, place, first):
  source = clip_files.files(folder, "train")
  index = _index(source, "good.mp4")
  clip = source.read(index, WINDOW, place)
  assert clip["image"].shape == (8, 16, 16, 3)
  assert clip["image"].dtype == np.uint8
  levels = clip["image"].mean((1, 2, 3)) / 4
  np.testing.assert_allclose(levels, first + np.arange(8), atol=0.7)
  assert clip["audio"].shape == (15_360, 1)
  expected = tiny_clips.tone(2)[first * 1920 :][:15_360]
  assert np.abs(clip["audio"] - expected)[2000:-2000].max() < 0.05


@pytest.mark.parametrize(
  ("name", "window", "message"),
  [
    ("silent.mp4", WINDOW, "has no audio track"),
    ("short.mp4", WINDOW, "5 frames|0.2. seconds"),
    ("truncated.mp4", WINDOW, "damaged|incomplete"),
    ("empty.mp4", WINDOW, "is empty"),
    ("8k.wav", WINDOW, "has no video track"),
  ],
)
def test_the_error_of_an_unreadable_clip_names_it(
  folder, name, window, message
):
  source = clip_files.files(folder, "train")
  with pytest.raises(UserError, match=message) as error:
    source.read(_index(source, name), window, 0.5)
  assert name in str(error.value)


def test_corrupt_frames_raise_a_user_error_or_keep_shapes(folder):
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
def test_audio_of_any_rate_is_resampled(folder, name):
  source = clip_files.files(folder, "train")
  clip = source.read(_index(source, name), AUDIO, 0.25)
  assert clip.keys() == {"audio"}
  assert clip["audio"].shape == (15_360, 1)
  start = round(0.25 * (2 - 0.32) * 48_000)
  expected = tiny_clips.tone(2)[start:][:15_360]
  assert np.abs(clip["audio"] - expected)[1000:-1000].max() < 0.02


def test_a_window_without_audio_can_be_read_from_a_silent_clip(folder):
  source = clip_files.files(folder, "train")
  clip = source.read(_index(source, "silent.mp4"), SILENT, 1.0)
  assert clip.keys() == {"image"}


def test_frames_of_a_variable_rate_are_read_by_their_times(tmp_path):
  times = [0, 40, 400, 440, 480, 900, 1000]
  path = tiny_clips.write_variable_rate(tmp_path / "x.mkv", times)
  segment = clip_files.Segment(str(path))
  window = Window(10, 10.0, 0, 1, (16, 16))
  frames = clip_files.read_window(segment, window, 0.0)["image"]
  numbers = [0, 1, 1, 1, 2, 4, 4, 4, 4, 5]
  np.testing.assert_allclose(frames.mean((1, 2, 3)) / 4, numbers, atol=0.7)


def test_a_folder_with_damaged_clips_can_be_trained_on(folder):
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


# Lists of clips


AUDIOSET = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=4, num_segs=4
# YTID, start_seconds, end_seconds, positive_labels
-one, 30.000, 40.000, "/m/x, /m/y"
# A comment.
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


def test_the_list_of_audioset_is_read(audioset, caplog):
  with caplog.at_level(logging.WARNING):
    source = clip_files.files(audioset, "balanced")
  assert source.class_names == ("Speech, talk", "Music")
  assert source.labels == ((0, 1), (1,))
  assert [segment.start for segment in source.segments] == [0, 0]
  assert source.missing == ("gone",)
  assert "1 of 3 clips have no file and are skipped" in caplog.text
  assert "gone" in caplog.text


def test_lists_can_select_segments_of_untrimmed_videos(audioset):
  source = clip_files.files(audioset, "balanced", trimmed=False)
  assert source.segments[0][1:] == (30, 40, 10)


def test_a_segment_ends_where_the_list_says(tmp_path):
  path = tiny_clips.write_clip(tmp_path / "x.mp4", 3.0)
  segment = clip_files.Segment(str(path), 1.0, 2.0)
  frames = clip_files.read_window(segment, SILENT, 1.0)["image"]
  levels = frames.mean((1, 2, 3)) / 4
  np.testing.assert_allclose(levels, 42 + np.arange(8), atol=0.7)


@pytest.mark.parametrize(("place", "first"), [(0.0, 0), (0.5, 21), (1.0, 42)])
def test_a_file_without_a_duration_in_its_header_is_measured(
  tmp_path, place, first
):
  path = tiny_clips.write_without_duration(tmp_path / "live.mkv")
  with av_decoding.opened(path, "video") as track:
    assert not track.duration
    assert not track.container.duration
  segment = clip_files.Segment(str(path))
  assert clip_files.seconds(segment, "video") == pytest.approx(2, abs=0.05)
  frames = clip_files.read_window(segment, SILENT, place)["image"]
  levels = frames.mean((1, 2, 3)) / 4
  np.testing.assert_allclose(levels, first + np.arange(8), atol=0.7)


def test_a_segment_after_the_end_is_refused(tmp_path):
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
def test_clips_shorter_than_listed_are_logged_once(tmp_path, trimmed, caplog):
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
def test_the_list_of_kinetics_finds_files_of_any_usual_name(tmp_path, name):
  lines = ["label,youtube_id,time_start,time_end,split"]
  (tmp_path / "train.csv").write_text(
    "\n".join([*lines, "zumba,v-1,15,25,train", "abseiling,w,0,10,train"])
  )
  (tmp_path / "validate.csv").write_text(
    "\n".join([*lines, "making tea,w,0,10,validate"])
  )
  (tmp_path / f"{name}.webm").touch()
  source = clip_files.files(tmp_path, "train")
  # Classes are those of all lists, so that a label means the same in each.
  assert source.class_names == ("abseiling", "making tea", "zumba")
  assert source.labels == ((2,),)


def test_lists_without_labels_do_not_define_classes(tmp_path, caplog):
  (tmp_path / "train.csv").write_text(
    "label,youtube_id,time_start,time_end,split\nzumba,v,15,25,train\n"
  )
  (tmp_path / "test.csv").write_text(
    "youtube_id,time_start,time_end,split\nw,0,10,test\n"
  )
  (tmp_path / "notes.csv").write_text("id,note\n1,a,b\n")
  (tmp_path / "v.mp4").touch()
  (tmp_path / "w.mp4").touch()
  with caplog.at_level(logging.WARNING):
    source = clip_files.files(tmp_path, "train")
  assert source.class_names == ("zumba",)
  assert "test.csv' has no column 'label'" in caplog.text
  assert "notes.csv' has no column 'file'" in caplog.text
  with pytest.raises(UserError, match=r"test.csv' has no column 'label'"):
    clip_files.files(tmp_path, "test")


def _only_path(root, **kwargs):
  (root / "mine.csv").write_text(
    "label,youtube_id,time_start,time_end\na,v,0,1"
  )
  (segment,) = clip_files.files(root, "mine", **kwargs).segments
  return segment.path.removeprefix(f"{root}/")


@pytest.mark.parametrize("names", [("a/v.wav", "b/v.MP4"), ("v.mkv", "v.flac")])
def test_of_two_files_of_a_clip_the_preferred_kind_is_taken(tmp_path, names):
  for name in names:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  audio, video = sorted(names, key=lambda x: x.endswith(("MP4", "mkv")))
  assert _only_path(tmp_path) == video
  assert _only_path(tmp_path, prefer_video=False) == audio
  (tmp_path / video).unlink()
  assert _only_path(tmp_path) == audio


def test_folders_are_searched_in_order_and_links_are_followed(tmp_path):
  root = tmp_path / "root"
  for name in ("z", "c", "x", "a"):
    (root / name).mkdir(parents=True)
  (root / "up").symlink_to(root)
  far = tmp_path / "far" / "away"
  far.mkdir(parents=True)
  (far / "v.mp4").touch()
  (root / "b").symlink_to(far.parent)
  assert _only_path(root) == "b/away/v.mp4"
  for name in ("z", "c", "x"):
    (root / name / "v.mp4").touch()
  assert _only_path(root) == "b/away/v.mp4"
  (root / "a" / "v.mp4").touch()
  assert _only_path(root) == "a/v.mp4"


def test_folders_without_clips_are_not_classes(tmp_path):
  for name in ("train/a/x.mp4", "train/notes/x.txt", "test/b/y.mp4", ".g/c/z"):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
  source = clip_files.files(tmp_path, "train")
  assert source.class_names == ("a", "b")


def test_a_list_of_files_and_labels_is_read(tmp_path):
  (tmp_path / "mine.csv").write_text(
    "# Mine.\nfile,label\na/x.mp4,bird;wind\nb.mp4,wind"
  )
  (tmp_path / "a").mkdir()
  (tmp_path / "a" / "x.mp4").touch()
  source = clip_files.files(tmp_path, "mine")
  assert source.class_names == ("bird", "wind")
  assert source.labels == ((0, 1),)
  (tmp_path / "classes.txt").write_text("wind\n")
  with pytest.raises(UserError, match=r"class 'bird'.*not one of the 1 known"):
    clip_files.files(tmp_path, "mine", str(tmp_path / "classes.txt"))


def test_names_may_start_like_comments_and_clips_may_have_no_label(tmp_path):
  (tmp_path / "mine.csv").write_text("file,label\n#1.mp4,dog;\nb.mp4,\n")
  for name in ("#1.mp4", "b.mp4"):
    (tmp_path / name).touch()
  source = clip_files.files(tmp_path, "mine")
  assert source.class_names == ("dog",)
  assert source.labels == ((0,), ())


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("file,tag\na.mp4,x", "x.csv' has no column 'label'; expected the columns"),
    ("file,label\na.mp4", "line 2 of .*KeyError"),
    ("# YTID, start_seconds, end_seconds, positive_labels\na, b, c, d",
     "line 2 of .*could not convert"),
    ("label,youtube_id,time_start,time_end\nx,v,nan,2",
     "line 2 of .*from second nan to 2"),
    ("label,youtube_id,time_start,time_end\nx,v,2,2",
     "line 2 of .*from second 2 to 2"),
    ("file,label\na.mp4,dog,cat", "line 2 of .*3 fields for 2 columns"),
    ('file,label\na.mp4,"dog', "is not a CSV"),
    ("file,label\nnone.mp4,x", "none of the 1 clips"),
    ("", "none of the 0 clips"),
    (b"\xff\xfe\x00", "is not a CSV"),
  ],
)  # fmt: skip
def test_malformed_lists_are_refused(tmp_path, content, message):
  data = content if isinstance(content, bytes) else content.encode()
  (tmp_path / "x.csv").write_bytes(data)
  (tmp_path / "classes.txt").write_text("x\n")
  with pytest.raises(UserError, match=message):
    clip_files.files(tmp_path, "x", str(tmp_path / "classes.txt"))


def test_missing_folders_are_refused(tmp_path):
  for name, message in (("", "no directory is set"), ("x", "no directory")):
    with pytest.raises(UserError, match=message):
      clip_files.files(name and tmp_path / name, "train")
  with pytest.raises(UserError, match=r"neither train.csv nor the folder"):
    clip_files.files(tmp_path, "train")
  (tmp_path / "train" / "a").mkdir(parents=True)
  with pytest.raises(UserError, match="no clip in"):
    clip_files.files(tmp_path, "train")
  (tmp_path / "twice.txt").write_text("a\na\n")
  with pytest.raises(UserError, match="1 different classes in 2 lines"):
    clip_files.files(tmp_path, "train", str(tmp_path / "twice.txt"))
