"""Tests of optical flow data sets in the folders they are published in."""

import cv2
import numpy as np
import pytest

from perceiver_jax.data.flow import files as flow_files
from perceiver_jax.data.flow import sources as flow_sources
from perceiver_jax.data.images import codec
from perceiver_jax.errors import UserError

SIZE = (6, 9)


def image(value=0):
  rng = np.random.default_rng(value)
  return rng.integers(0, 256, (*SIZE, 3), np.uint8)


def flow_of(value=0):
  rng = np.random.default_rng(100 + value)
  return rng.uniform(-9, 9, (*SIZE, 2)).astype(np.float32)


def write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  if content.dtype == np.float32:
    flow_files.write_flow(path, content)
  elif path.suffix == ".ppm":
    cv2.imwrite(str(path), content[..., ::-1])
  else:
    path.write_bytes(codec.encode_png(content))


def sintel(root):
  for part in ("training", "test"):
    for scene in ("alley_1", "bamboo_2"):
      for frame in (1, 2, 3):
        for render in ("clean", "final"):
          write(
            root / part / render / scene / f"frame_{frame:04}.png",
            image(frame),
          )
        if part == "training" and frame < 3:
          name = f"{scene}/frame_{frame:04}"
          write(root / part / f"flow/{name}.flo", flow_of(frame))
          mask = np.zeros(SIZE, np.uint8)
          mask[0, :frame] = 100
          write(root / part / f"occlusions/{name}.png", mask)


def kitti(root, camera):
  for part in ("training", "testing"):
    for i in (0, 1):
      for number in (10, 11):
        write(root / part / camera / f"{i:06}_{number}.png", image(number))
      if part == "training":
        flow = flow_of(i)
        flow[0, 0] = np.nan
        write(root / part / f"flow_occ/{i:06}_10.png", flow)
        flow[0, 1] = np.nan
        write(root / part / f"flow_noc/{i:06}_10.png", flow)


def chairs(root):
  for i in (1, 2, 3):
    for frame in (1, 2):
      write(root / f"data/{i:05}_img{frame}.ppm", image(10 * i + frame))
    write(root / f"data/{i:05}_flow.flo", flow_of(i))
  (root / "FlyingChairs_train_val.txt").write_text("1\n2\n1\n")


def autoflow(root, count=3):
  for i in range(count):
    folder = root / f"static_40k_png_{1 + i % 2}_of_4/table_{i}"
    write(folder / "im0.png", image(0))
    write(folder / "im1.png", image(1))
    write(folder / "forward.flo", flow_of(i))


def make(name, root, **arguments):
  return flow_sources.make_flow_source(name, directory=str(root), **arguments)


def test_sintel_pairs_consecutive_frames(tmp_path):
  sintel(tmp_path)
  source = make("sintel", tmp_path, split="train", render="final")
  names = [f.name for f in source.files]
  assert names == [
    f"{s}/frame_000{i}" for s in ("alley_1", "bamboo_2") for i in (1, 2)
  ]
  pair = source[1]
  np.testing.assert_array_equal(pair["frames"], [image(2), image(3)])
  np.testing.assert_array_equal(pair["flow"], flow_of(2))
  assert pair["occluded"].sum() == 2
  assert pair["occluded"][0, :2].all()
  assert source.knows_occlusion
  test = make("sintel", tmp_path, split="test")
  assert len(test) == 4
  assert np.isnan(test[0]["flow"]).all()


@pytest.mark.parametrize(
  ("year", "camera"), [("2012", "colored_0"), ("2015", "image_2")]
)
def test_kitti_has_sparse_flow_and_occlusion(tmp_path, year, camera):
  kitti(tmp_path, camera)
  source = make("kitti", tmp_path, split="train", year=year)
  assert [f.name for f in source.files] == ["000000_10", "000001_10"]
  pair = source[1]
  np.testing.assert_array_equal(pair["frames"], [image(10), image(11)])
  known = np.isfinite(pair["flow"]).all(-1)
  assert not known[0, 0]
  assert known.sum() == known.size - 1
  np.testing.assert_allclose(
    pair["flow"][known], flow_of(1)[known], atol=1 / 128
  )
  occluded = np.zeros(SIZE, bool)
  occluded[0, 1] = True
  np.testing.assert_array_equal(pair["occluded"], occluded)
  assert source.knows_occlusion
  assert len(make("kitti", tmp_path, split="test", year=year)) == 2


def test_flying_chairs_is_split_by_its_list(tmp_path):
  chairs(tmp_path)
  source = make("flying_chairs", tmp_path, split="train")
  assert [f.name for f in source.files] == ["00001", "00003"]
  np.testing.assert_array_equal(source[1]["flow"], flow_of(3))
  np.testing.assert_array_equal(source[1]["frames"][1], image(32))
  held_out = make("flying_chairs", tmp_path, split="test")
  assert [f.name for f in held_out.files] == ["00002"]


def test_autoflow_holds_out_every_200th_pair(tmp_path):
  autoflow(tmp_path)
  train, test = (
    make("autoflow", tmp_path, split=split) for split in ("train", "test")
  )
  assert [f.name for f in test.files] == ["table_0"]
  assert sorted(f.name for f in train.files) == ["table_1", "table_2"]
  np.testing.assert_array_equal(train[0]["frames"], [image(0), image(1)])


def test_the_flow_of_the_motorcycle_is_minus_its_disparity():
  (pair,) = flow_sources.make_flow_source("motorcycle", split="test", scale=1)
  flow, (left, right) = pair["flow"], pair["frames"].astype(np.float32)
  known = np.isfinite(flow).all(-1)
  assert 0.9 < known.mean() < 0.95
  assert (flow[known][:, 1] == 0).all()
  y, x = np.indices(known.shape, dtype=np.float32)
  places = x + np.where(known, flow[..., 0], 0)
  warped = cv2.remap(right, places, y, cv2.INTER_LINEAR)
  inside = known & (places >= 0)
  error = np.abs(warped - left).mean(-1)[inside].mean()
  unwarped_error = np.abs(right - left).mean(-1)[inside].mean()
  assert error < 0.4 * unwarped_error
  half = flow_sources.make_flow_source("motorcycle", split="test", scale=0.5)
  ratio = np.nanmin(half[0]["flow"]) / np.nanmin(flow)
  assert ratio == pytest.approx(0.5, abs=0.02)


def warped_error(pair, displaced):
  """Returns the mean error of the right image warped by displaced flow."""
  flow, (left, right) = pair["flow"][..., 0], pair["frames"].astype(np.float32)
  flow = np.roll(np.where(np.isfinite(flow), flow, np.nan), displaced, 1)
  flow[:, :1] = flow[:, -1:] = np.nan  # These columns may be wrapped around.
  y, x = np.indices(flow.shape, dtype=np.float32)
  known = x + flow >= 0
  places = np.where(known, x + flow, 0)
  error = np.abs(cv2.remap(right, places, y, cv2.INTER_LINEAR) - left)
  return error.mean(-1)[known].mean()


def test_a_source_without_masks_does_not_know_occlusion(tmp_path):
  chairs(tmp_path)
  autoflow(tmp_path)
  sintel(tmp_path)
  for mask in (tmp_path / "training/occlusions").rglob("*.png"):
    mask.unlink()
  for name in ("flying_chairs", "autoflow", "sintel"):
    source = make(name, tmp_path, split="train")
    assert not source.knows_occlusion
    assert not source[0]["occluded"].any()


@pytest.mark.parametrize("scale", [0.1, 0.25])
def test_the_resized_motorcycle_flow_is_aligned_with_its_frames(scale):
  (pair,) = flow_sources.make_flow_source(
    "motorcycle", split="test", scale=scale
  )
  before, here, after = (warped_error(pair, by) for by in (-1, 0, 1))
  assert here < min(before, after) - 0.4
  # Half a pixel of displacement would make them differ by 1.
  assert abs(before - after) < 0.4


@pytest.mark.parametrize(
  ("name", "arguments", "message"),
  [
    ("sintel", {"split": "train"}, "empty dataset.*clean/SCENE"),
    ("sintel", {"split": "val"}, "unknown split 'val'.*train, test"),
    ("sintel", {"split": "test", "render": "albedo"}, "clean, final"),
    ("kitti", {"split": "train"}, "empty dataset.*image_2"),
    ("kitti", {"split": "train", "year": "2014"}, "2012, 2015"),
    ("flying_chairs", {"split": "train"}, "train_val.txt is missing"),
    ("autoflow", {"split": "train"}, "empty dataset.*forward.flo"),
    ("things", {"split": "train"}, "unknown source 'things'.*rendered"),
  ],
)
def test_empty_folders_and_unknown_names_are_refused(
  tmp_path, name, arguments, message
):
  with pytest.raises(UserError, match=message):
    make(name, tmp_path, **arguments)


def test_a_missing_folder_and_no_folder_are_refused():
  with pytest.raises(UserError, match="no folder"):
    make("sintel", "no/such", split="train")
  with pytest.raises(UserError, match=r"kitti\.directory"):
    make("kitti", "", split="train")


def test_a_missing_file_is_named(tmp_path):
  sintel(tmp_path)
  (tmp_path / "training/flow/alley_1/frame_0002.flo").unlink()
  with pytest.raises(UserError, match=r"alley_1/frame_0002.flo is missing"):
    make("sintel", tmp_path, split="train")


def test_different_sizes_and_a_short_list_are_refused(tmp_path):
  chairs(tmp_path)
  write(tmp_path / "data/00001_flow.flo", np.zeros((3, 4, 2), np.float32))
  with pytest.raises(UserError, match=r"4 x 3 and its frames 9 x 6"):
    make("flying_chairs", tmp_path, split="train")[0]
  write(tmp_path / "data/00003_img2.ppm", image()[:3])
  with pytest.raises(UserError, match="differ in size"):
    make("flying_chairs", tmp_path, split="train")[1]
  (tmp_path / "FlyingChairs_train_val.txt").write_text("1 2")
  with pytest.raises(UserError, match=r"has 2 lines.*3 pairs"):
    make("flying_chairs", tmp_path, split="train")


@pytest.mark.parametrize("suffix", [".flo", ".pfm", ".png"])
def test_pairs_of_ones_own(tmp_path, suffix):
  for i in range(12):
    folder = tmp_path / "scenes" / str(i % 2)
    write(folder / f"{i:02}_img1.png", image(i))
    write(folder / f"{i:02}_img2.ppm", image(100 + i))
    write(folder / f"{i:02}_flow{suffix}", flow_of(i))
  train, test = (
    flow_sources.make_flow_source("pairs", directory=tmp_path, split=split)
    for split in ("train", "test")
  )
  assert (len(train), len(test)) == (10, 2)
  names = [{pair.name for pair in each.files} for each in (train, test)]
  assert names[0] | names[1] == {f"{i:02}" for i in range(12)}
  number = int(train.files[3].name)
  np.testing.assert_array_equal(train[3]["frames"][0], image(number))
  np.testing.assert_array_equal(train[3]["frames"][1], image(100 + number))
  accuracy = 1 / 64 if suffix == ".png" else 1e-6
  np.testing.assert_allclose(train[3]["flow"], flow_of(number), atol=accuracy)
  assert not train[3]["occluded"].any()


def test_pairs_of_ones_own_that_are_incomplete(tmp_path):
  open_pairs = lambda: flow_sources.make_flow_source(
    "pairs", directory=tmp_path, split="test"
  )
  with pytest.raises(UserError, match=r"no pair in .*NAME_img1"):
    open_pairs()
  write(tmp_path / "a_flow.flo", flow_of())
  write(tmp_path / "a_img1.png", image())
  (tmp_path / "a_img1.json").touch()
  (tmp_path / "a_img2.json").touch()
  with pytest.raises(UserError, match=r"a_flow.flo has no a_img2.png"):
    open_pairs()
  write(tmp_path / "a_img2.png", image())
  assert open_pairs().files[0].first.name == "a_img1.png"
  with pytest.raises(UserError, match=r"is 1 pair, and it is held out"):
    make("pairs", tmp_path, split="train")
  write(tmp_path / "a_flow.pfm", flow_of())
  with pytest.raises(UserError, match=r"a_flow\.flo and .*a_flow\.pfm belong"):
    open_pairs()
