"""Tests of the functions of pages, which need no Gradio."""

import numpy as np
import pytest
import task_helpers
import tiny_weights

from configs import audioset, glue, modelnet40, starcraft
from experiments.demo_pages import page
from perceiver_jax import weights
from perceiver_jax.data.images import codec
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry
from perceiver_jax.training import loop
from perceiver_jax.viz.sections import Section

pytestmark = pytest.mark.usefixtures("compile_once")


def outputs_of(made, *values):
  """Returns the outputs of a page by label, after a check of their kinds."""
  shown = made.predict(*values)
  assert len(shown) == len(made.outputs)
  for output, value in zip(made.outputs, shown, strict=True):
    if output.kind == "classes" and value is not None:
      assert all(0 <= share <= 1 for share in value.values())
    elif output.kind == "image":
      assert value.dtype == np.uint8
      assert value.std() > 1
    elif output.kind == "sections":
      assert all(isinstance(section, Section) for section in value)
  labels = [output.label for output in made.outputs]
  return dict(zip(labels, shown, strict=True))


@pytest.fixture
def classifier(make_page, weight_file):
  size = tiny_weights.IMAGE_SIZE
  file = weight_file("classifier")
  return make_page(f"--weights={file}", f"--image_size={size}"), file


def test_an_image_has_the_classes_of_its_model(classifier, tmp_path):
  made, file = classifier
  pixels = np.full((50, 40, 3), 200, np.uint8)
  path = tmp_path / "bright.png"
  path.write_bytes(codec.encode_png(pixels))
  classes = outputs_of(made, str(path))["Classes"]
  size = tiny_weights.IMAGE_SIZE
  mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
  raw = np.tile((200 / 255 - np.array(mean)) / std, (1, size, size, 1))
  logits = tiny_weights.outputs(weights.load(file), np.float32(raw)).logits[0]
  shares = np.exp(logits) / np.exp(logits).sum()
  assert list(classes) == [f"class {i}" for i in range(len(shares))]
  np.testing.assert_allclose(list(classes.values()), shares, atol=1e-5)


def test_classes_of_the_same_name_are_all_kept():
  shares = page.by_name(["crane", "toucan", "crane"], [0.5, 0.3, 0.2])
  assert shares == {"crane (0)": 0.5, "toucan": 0.3, "crane (2)": 0.2}


def test_options_choose_latents_and_a_head(classifier):
  made, _ = classifier
  (path,) = made.examples[0]
  name = "Attention of single latents, as logits"
  every = outputs_of(made, path)[name]
  one = outputs_of(made, path, " 2 ", "0")[name]
  assert one.shape[1] < every.shape[1]
  for latents, head in (("9", ""), ("x", ""), ("", "8"), ("", "-1")):
    with pytest.raises(UserError):
      made.predict(path, latents, head)


@pytest.mark.parametrize(
  ("upload", "part"), [(None, "drop an image"), ("text", "cannot be read")]
)
def test_what_is_no_image_is_refused(classifier, tmp_path, upload, part):
  if upload:
    upload = tmp_path / "text.png"
    upload.write_text("no image")
  with pytest.raises(UserError, match=part):
    classifier[0].predict(upload and str(upload))


def test_gaps_are_filled_and_known_words_compared(make_page, weight_file):
  made = make_page(f"--weights={weight_file('language')}", "--top=3")
  text = "bytes with [MASK] gaps"
  (parts,) = made.predict(text, "")
  assert len(parts) == 3
  assert "<ins>" in parts[0].body
  assert "[" not in parts[0].body
  assert str(parts[1].body).count("%") == 3
  (parts,) = made.predict("bytes with gaps", " gaps")
  assert "[gaps]" in parts[0].body
  for wrong in (("no gap", ""), ("text", "other"), ("[MASK]" * 40, "")):
    with pytest.raises(UserError):
      made.predict(*wrong)


def test_rendered_pairs_have_flow(make_page, weight_file):
  made = make_page(f"--weights={weight_file('flow')}")
  first, second = made.examples[0]
  outputs_of(made, first, second)
  with pytest.raises(UserError, match="drop the second frame"):
    made.predict(first, None)


def test_large_frames_are_refused_before_they_take_minutes(
  make_page, weight_file, tmp_path
):
  made = make_page(f"--weights={weight_file('flow')}")
  path = tmp_path / "large.png"
  path.write_bytes(codec.encode_png(np.zeros((2000, 2000, 3), np.uint8)))
  with pytest.raises(UserError, match="make it smaller"):
    made.predict(str(path), str(path))


def test_a_clip_is_shown_beside_its_reconstruction(make_page, weight_file):
  made = make_page(f"--weights={weight_file('autoencoder')}", "--parts=2")
  (clip,) = made.examples[0]
  shown = outputs_of(made, clip)
  (section,) = shown["Reconstruction"]
  assert str(section.body).count("data:video/mp4") == 1
  assert str(section.body).count("data:audio/wav") == 1
  assert sum(shown["Classes"].values()) == pytest.approx(1)
  for start in ("-1", "soon", "nan", "1000", "1e300"):
    with pytest.raises(UserError):
      made.predict(clip, start)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("config", "variant", "examples"),
  [
    (audioset, "small,smoke", 6),
    (glue, "word_order,smoke", 3),
    (modelnet40, "small,smoke", 6),
    (starcraft, "small,smoke", 6),
  ],
)
def test_the_examples_of_a_run_can_be_predicted(
  make_page, tmp_path, monkeypatch, config, variant, examples
):
  monkeypatch.setattr("perceiver_jax.viz.report.write_report", lambda *_: None)
  folder = tmp_path / "run"
  settings = task_helpers.make_config(
    config, variant, num_steps=1, eval_every_steps=1
  )
  task = registry.make_task(settings)
  loop.Trainer(settings, task, folder, num_devices=1).run()
  made = make_page(f"--workdir={folder}")
  assert len(made.examples) == examples
  for example in made.examples[:2]:
    outputs_of(made, *example)


def test_every_model_has_a_page_or_is_refused(monkeypatch):
  spec = {"adapter": {"kind": "smell"}, "decoder": {"kind": "classification"}}
  monkeypatch.setattr(page.models, "read_spec", lambda: (spec, None))
  with pytest.raises(UserError, match="no page for a model with a 'smell'"):
    page.make(None)
