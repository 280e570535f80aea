"""Tests that flow and occlusion of rendered pairs fit their frames."""

import cv2
import numpy as np
import pytest
from exact_backward_flow import backward_flow
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.data.flow import effects as flow_effects
from perceiver_jax.data.flow import motion as flow_motion
from perceiver_jax.data.flow import render as flow_render
from perceiver_jax.data.flow import scene as flow_scene
from perceiver_jax.data.flow import textures as flow_textures
from perceiver_jax.data.flow.textures import Textures
from perceiver_jax.data.images import codec
from perceiver_jax.errors import UserError

HEIGHT, WIDTH = 96, 128
PLAIN = flow_scene.Scene(motion_blur_share=0.0, edge_blur=0.0)
SEEDS = st.integers(0, 2**31)


class SmoothTextures:
  """Textures without detail, which interpolation hardly changes."""

  def draw(self, rng, height, width):
    small = rng.integers(20, 236, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def render(seed, settings=PLAIN, textures=None, size=(HEIGHT, WIDTH)):
  """Returns the layers of a random scene and its rendered pair."""
  rng = np.random.default_rng(seed)
  layers = flow_scene.draw_layers(
    rng, settings, textures or SmoothTextures(), *size
  )
  return layers, flow_render.render(layers, *size)


def places(flow):
  y, x = np.mgrid[: flow.shape[0], : flow.shape[1]]
  return (np.stack([x, y], -1) + flow).astype(np.float32)


def warp(image, flow):
  """Looks up every pixel of an image at the place that it flows to."""
  return cv2.remap(
    image, places(flow), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
  )


def inside(flow):
  """Returns whether each pixel flows to a place inside the frame."""
  at = places(flow)
  return ((at >= 0) & (at <= (WIDTH - 1, HEIGHT - 1))).all(-1)


def borders(labels, reach=2):
  """Returns pixels near another layer, where colors are mixed."""
  size = np.ones((2 * reach + 1,) * 2, np.uint8)
  return cv2.dilate(labels, size) != cv2.erode(labels, size)


def interior(pair):
  """Returns pixels that are visible and far from borders in both frames."""
  near = warp(borders(pair.labels[1]).astype(np.float32), pair.flow) > 0
  return ~pair.occluded & ~borders(pair.labels[0]) & ~near


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_the_second_frame_warped_by_the_flow_is_the_first(seed):
  _, pair = render(seed)
  warped = warp(pair.frames[1].astype(np.float32), pair.flow)
  error = np.abs(warped - pair.frames[0]).max(-1)[interior(pair)]
  # One percent of the range, at nearly every pixel.
  assert np.quantile(error, 0.99) <= 2.55
  assert error.mean() < 1


def test_a_warped_frame_of_photos_is_the_first_on_average():
  errors = []
  for seed in range(8):
    _, pair = render(seed, flow_scene.Scene(), Textures("train"))
    warped = warp(pair.frames[1].astype(np.float32), pair.flow)
    errors.append(np.abs(warped - pair.frames[0])[interior(pair)].mean())
  assert np.mean(errors) < 2.55


def test_a_flow_that_is_off_by_a_pixel_has_a_large_error():
  _, pair = render(3)
  warped = warp(pair.frames[1].astype(np.float32), pair.flow + 1.0)
  error = np.abs(warped - pair.frames[0]).max(-1)[interior(pair)]
  assert np.quantile(error, 0.99) > 2 * 2.55


STILL = flow_scene.Scene(
  translation=0.0, rotation=0.0, scale=0.0, shear=0.0, warp_share=0.0,
  background_translation=0.0, background_rotation=0.0, background_scale=0.0,
  background_shear=0.0,
)  # fmt: skip


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_a_still_scene_has_no_flow_and_no_occlusion(seed):
  _, pair = render(seed, STILL, Textures("train"))
  np.testing.assert_allclose(pair.flow, 0, atol=1e-4)
  assert not pair.occluded[1:-1, 1:-1].any()
  difference = np.abs(pair.frames[0].astype(int) - pair.frames[1])
  assert difference.max() <= 2


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_forward_and_backward_flow_cancel_unless_occluded(seed):
  layers, pair = render(seed)
  back = backward_flow(layers, pair)
  miss = np.hypot(*np.moveaxis(pair.flow + warp(back, pair.flow), -1, 0))
  visible = interior(pair)
  assert visible.mean() > 0.3
  assert np.quantile(miss[visible], 0.99) < 0.1
  # The flow of an occluded pixel leads to another layer. It leads back only if
  # both layers move equally.
  x, y = np.rint(np.moveaxis(places(pair.flow), -1, 0)).astype(int)
  target = pair.labels[1][y.clip(0, HEIGHT - 1), x.clip(0, WIDTH - 1)]
  occluded = pair.occluded & inside(pair.flow)
  assert (target[occluded] != pair.labels[0][occluded]).all()
  leaves = ~inside(pair.flow)
  assert pair.occluded[leaves].all()


def test_forward_and_backward_flow_do_not_cancel_where_occluded():
  moving = PLAIN._replace(
    translation=0.15, warp_share=0.0, follow_share=0.0, rotation=0.0,
    scale=0.0, shear=0.0, background_translation=0.0, background_rotation=0.0,
    background_scale=0.0, background_shear=0.0,
  )  # fmt: skip
  for seed in range(5):
    layers, pair = render(seed, moving)
    back = backward_flow(layers, pair)
    miss = np.hypot(*np.moveaxis(pair.flow + warp(back, pair.flow), -1, 0))
    occluded = pair.occluded & inside(pair.flow) & ~borders(pair.labels[0], 3)
    assert occluded.sum() > 20
    assert np.median(miss[occluded]) > 1


def test_flow_and_occlusion_of_a_move_by_whole_pixels_are_exact():
  mask = np.zeros((14, 14), np.uint8)
  mask[2:12, 2:12] = 255
  box = flow_scene.Box(40, 30, 54, 44)
  rng = np.random.default_rng(0)
  still = np.eye(2, 3)
  right = np.float64([[1, 0, 5], [0, 1, -3]])
  frame = flow_scene.Box(0, 0, WIDTH, HEIGHT)
  texture = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
  motion = lambda matrix, box: flow_scene.Motion(matrix, box, None)
  first = flow_scene.Box(35, 33, 49, 47)
  layers = [
    flow_scene.Layer(texture, still, motion(still, frame), None, frame, frame),
    flow_scene.Layer(texture, still, motion(right, first), mask, box, first),
  ]
  pair = flow_render.render(layers, HEIGHT, WIDTH)
  expected = np.zeros((HEIGHT, WIDTH, 2))
  expected[35:45, 37:47] = (5, -3)
  np.testing.assert_allclose(pair.flow, expected, atol=1e-5)
  # Background that the object covers in the second frame only.
  occluded = np.zeros((HEIGHT, WIDTH), bool)
  occluded[32:42, 42:52] = True
  occluded[35:45, 37:47] = False
  np.testing.assert_array_equal(pair.occluded, occluded)
  np.testing.assert_array_equal(pair.frames[1], texture)
  np.testing.assert_array_equal(
    pair.frames[0][35:45, 37:47], texture[32:42, 42:52]
  )


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, strength=st.floats(0, 2), points=st.integers(2, 6))
def test_a_thin_plate_bend_never_folds(seed, strength, points):
  box = flow_scene.Box(-10, 5, 50, 105)
  rng = np.random.default_rng(seed)
  bend = flow_scene.thin_plate(rng, box, points, strength)
  motion = flow_scene.Motion(np.eye(2, 3), box, bend)
  field = motion.field(box)
  across, down = np.diff(field, axis=1)[:-1], np.diff(field, axis=0)[:, :-1]
  area = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
  assert area.min() > 0


def test_a_thin_plate_spline_passes_through_its_points():
  basis = flow_motion._basis(2)
  moved = np.random.default_rng(0).normal(size=(4, 2))
  size = flow_motion._COARSE
  bend = (basis @ moved).reshape(size, size, 2)
  np.testing.assert_allclose(
    bend[[0, 0, -1, -1], [0, -1, 0, -1]], moved, atol=1e-9
  )


def test_light_fog_and_noise_change_frames_within_their_ranges():
  frames = np.full((2, HEIGHT, WIDTH, 3), 100, np.uint8)
  off = flow_scene.Scene(fog_share=0.0, light_share=0.0, noise_share=0.0)
  rng = np.random.default_rng(0)
  assert flow_effects.apply_effects(rng, off, frames) is frames
  light = off._replace(light_share=1.0, light=0.1)
  lit = flow_effects.apply_effects(rng, light, frames)
  np.testing.assert_array_equal(lit[0], frames[0])
  assert 1 <= np.abs(lit[1].astype(int) - 100).max() <= 11
  fog = off._replace(fog_share=1.0, fog_density=1.0)
  foggy = flow_effects.apply_effects(rng, fog, frames)
  np.testing.assert_array_equal(foggy[0], foggy[1])
  assert (foggy >= 100).all()
  assert foggy.max() > 102
  noisy = flow_effects.apply_effects(
    rng, off._replace(noise_share=1.0, noise=5.0), frames
  )
  assert 0 < noisy.std() < 6


def test_motion_blur_removes_detail_along_the_motion():
  fast = flow_scene.Scene(
    objects=(0, 0), warp_share=0.0, motion_blur_share=1.0, motion_blur=1.0,
    background_translation=0.2, background_rotation=0.0, background_scale=0.0,
    background_shear=0.0,
  )  # fmt: skip
  sharp = fast._replace(motion_blur=0.0)
  detail = []
  for settings_ in (sharp, fast):
    pairs = [render(s, settings_, Textures("train"))[1] for s in range(4)]
    steps = [np.abs(np.diff(p.frames[1].astype(int), axis=1)) for p in pairs]
    detail.append(np.mean(steps))
  assert detail[1] < 0.9 * detail[0]


def test_the_masks_of_blurred_objects_fade_out_inside_their_boxes():
  fast = flow_scene.Scene(
    objects=(3, 3), translation=0.3, motion_blur_share=1.0, motion_blur=1.0,
    edge_blur=4.0,
  )  # fmt: skip
  for seed in range(5):
    for layer in render(seed, fast)[0][1:]:
      assert layer.mask.shape == layer.mask_box.shape
      edges = [layer.mask[[0, -1]].ravel(), layer.mask[:, [0, -1]].ravel()]
      assert np.concatenate(edges).max() <= 4
      assert layer.mask.max() > 40


def test_textures_hold_out_every_tenth_photo_of_a_folder(tmp_path):
  for i in range(12):
    gray = np.full((20, 30, 3), 10 * i, np.uint8)
    (tmp_path / f"{i:02}.png").write_bytes(codec.encode_png(gray))
  names = {
    split: {p.name for p in Textures(split, tmp_path)._paths}
    for split in ("train", "test")
  }
  assert names["test"] == {"00.png", "10.png"}
  assert names["train"] == {f"{i:02}.png" for i in range(12)} - names["test"]
  rng = np.random.default_rng(0)
  drawn = Textures("train", tmp_path, noise_share=0.0).draw(rng, 50, 40)
  assert drawn.shape == (50, 40, 3)
  # A uniform gray photo has no detail.
  assert drawn.std((0, 1)).max() == 0


def test_parts_of_photos_without_detail_are_drawn_again():
  rng = np.random.default_rng(0)
  details = []
  for min_detail in (0.0, 6.0):
    textures = Textures("train", noise_share=0.0, detail=min_detail)
    parts = [textures._part(rng, 32, 48) for _ in range(40)]
    drawn = [textures.draw(rng, 32, 48) for _ in range(40)]
    details.append([flow_textures._detail(p) for p in drawn])
    assert min(map(flow_textures._detail, parts)) < 6
  # Colors change after that, which less than halves the detail.
  assert min(details[0]) < 3 < min(details[1])


@pytest.mark.parametrize("count", [0, 1])
def test_a_folder_with_too_few_images_is_refused(tmp_path, count):
  for i in range(count):
    (tmp_path / f"{i}.png").write_bytes(b"")
  with pytest.raises(UserError, match=f"has {count} images"):
    Textures("train", tmp_path)
  with pytest.raises(UserError, match="no directory"):
    Textures("train", tmp_path / "missing")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"object": (1, 2)}, "has no object"),
    ({"objects": (3, 2)}, "objects"),
    ({"objects": (3,)}, r"objects is \(3,\); give finite numbers as in"),
    ({"objects": (1.5, 2)}, "objects"),
    ({"fog_share": "x"}, r"scene\.fog_share is x; give a share from 0 to 1"),
    ({"rotation": float("nan")}, "rotation is nan"),
    ({"objects": (1, 400)}, "at most 200"),
    ({"vertices": (2, 5)}, "vertices of 3"),
    ({"diameter": (0.0, 0.5)}, "diameter"),
    ({"warp_points": 1}, "warp_points"),
  ],
)
def test_settings_out_of_range_are_refused(changes, message):
  with pytest.raises(UserError, match=message):
    flow_scene.make_scene(changes)
