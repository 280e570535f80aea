import html.parser
import re

import cv2
import jax
import numpy as np
import pytest
import tiny_clips
import tiny_weights
from scipy import special

from experiments.predictions import image_model
from perceiver_jax import weights
from perceiver_jax.data.images import codec, transforms
from perceiver_jax.data.text import byte_tokenizer
from perceiver_jax.models import zoo
from perceiver_jax.viz import attention_figures

pytestmark = pytest.mark.usefixtures("compile_once")

SIZE = tiny_weights.IMAGE_SIZE
TEXT = '<b id="x()">&amp;</b><script>'


@pytest.fixture
def image_file(tmp_path):
  pixels = np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8)
  file = tmp_path / "noise.png"
  file.write_bytes(codec.encode_png(pixels))
  return file


def attend(call, file, *arguments):
  done = call("predict", "attention", f"--weights={file}", *arguments)
  assert (done.status, done.err) == (0, "")
  return done


def saved_image(path):
  return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def image_outputs(file, image_file, what):
  """Returns a model's outputs for an image file, and its pixels."""
  image = transforms.prepare_image(
    codec.read_image(image_file),
    (SIZE, SIZE, 3),
    crop_fraction=image_model._CROP_FRACTION,
    resize="cubic",
    normalization=image_model._NORMALIZATION,
  )
  model_weights = weights.load(file)
  outputs = tiny_weights.outputs(
    model_weights, image[None], is_training=False, return_attention=what
  )
  return outputs, transforms.to_pixels(image, image_model._NORMALIZATION)


@pytest.mark.parametrize(
  ("flag", "what"), [((), "logits"), (("--softmax",), True)]
)
def test_images_have_maps_of_the_models_attention(
  call, weight_file, image_file, tmp_path, flag, what
):
  file = weight_file("classifier")
  done = attend(
    call, file, f"--image_size={SIZE}", "--latents=3,1", *flag, image_file
  )
  assert done.out == f"{image_file}\n  predictions/noise-attention-maps.png\n"
  outputs, pixels = image_outputs(file, image_file, what)
  expected = attention_figures.image_figure(
    pixels, [x[0] for x in outputs.encoder_attention], latents=[3, 1]
  )
  figure = saved_image(tmp_path / "predictions" / "noise-attention-maps.png")
  difference = np.abs(figure.astype(int) - expected)
  assert np.percentile(difference, 99) <= 2


def test_permuted_pixels_have_the_maps_of_the_pixels(
  weight_file, image_file, tmp_path, call
):
  loaded = weights.load(weight_file("classifier"))
  spec = loaded.spec | {
    "adapter": {**loaded.spec["adapter"], "permutation_seed": 5}
  }
  file = tmp_path / "permuted.safetensors"
  weights.save(file, loaded._replace(spec=spec))
  for path in (file, weight_file("classifier")):
    attend(call, path, f"--image_size={SIZE}", image_file)
  folder = tmp_path / "predictions"
  plain = saved_image(folder / "noise-attention-maps-2.png")
  permuted = saved_image(folder / "noise-attention-maps.png")
  difference = np.abs(plain.astype(int) - permuted)
  assert np.percentile(difference, 99) <= 2


def test_weights_are_loaded_once(
  call, weight_file, image_file, tmp_path, monkeypatch
):
  paths = []
  load = weights.load
  monkeypatch.setattr(
    weights, "load", lambda path: paths.append(str(path)) or load(path)
  )
  clip = tiny_clips.write_clip(tmp_path / "clip.mp4", seconds=1.0)
  files = [weight_file(x) for x in ("classifier", "language", "autoencoder")]
  attend(call, files[0], f"--image_size={SIZE}", image_file)
  attend(call, files[1], "text")
  attend(call, files[2], clip)
  assert paths == list(map(str, files))


class _Page(html.parser.HTMLParser):
  """Collects the spans of a page, its links, and its tags."""

  def __init__(self):
    super().__init__()
    self.spans, self.links, self.tags = [], [], set()

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    values = dict(attrs)
    self.links += [values[k] for k in ("src", "href") if values.get(k)]
    style = values.get("style") or ""
    if tag == "span" and "--attention" in style:
      self.spans.append([float(style.split(":")[1]), ""])

  def handle_data(self, data):
    if self.spans and not self.spans[-1][1]:
      self.spans[-1][1] = data


def test_characters_have_the_color_of_their_attention_weight(
  call, weight_file, tmp_path
):
  file = weight_file("language")
  text = "né [MASK]"
  done = attend(call, file, "--latents=2", "--head=1", text)
  assert done.out == f"{text}\n  predictions/text-attention.html\n"
  page = _Page()
  page.feed((tmp_path / "predictions" / "text-attention.html").read_text())
  shown = [characters for _, characters in page.spans]
  assert shown == ["n", "é", " ", "[MASK]"]

  ids = np.append(byte_tokenizer.encode("né "), byte_tokenizer.MASK)
  rows, mask = byte_tokenizer.pad([ids], tiny_weights.LENGTH)
  loaded = weights.load(file)
  apply = weights.transform(loaded.spec).apply
  outputs, _ = jax.jit(
    lambda p, s, x, m: apply(p, s, None, x, input_mask=m, return_attention=True)
  )(loaded.params, loaded.state, rows, mask)
  by_token = np.asarray(outputs.encoder_attention[0])[0, 1, 2, :5]
  # "é" is two bytes.
  by_character = np.array([by_token[0], by_token[1:3].sum(), *by_token[3:]])
  expected = by_character / by_character.max()
  np.testing.assert_allclose([x for x, _ in page.spans], expected, atol=2e-3)


def test_pages_of_texts_escape_them_and_need_nothing_else(
  call, weight_file, tmp_path
):
  attend(call, weight_file("language"), "--nosoftmax", TEXT)
  text = (tmp_path / "predictions" / "text-attention.html").read_text()
  page = _Page()
  page.feed(text)
  assert not page.tags & {"b", "script", "link", "iframe"}
  assert page.links == []
  assert not re.search(r"https?://|url\(|@import", text)
  shown = page.spans[: len(TEXT)]
  assert "".join(characters for _, characters in shown) == TEXT
  assert {0.0, 1.0} <= {strength for strength, _ in shown}


def test_clips_show_frames_and_audio(call, weight_file, tmp_path):
  path = tiny_clips.write_clip(tmp_path / "clip.mp4", seconds=1.0)
  file = weight_file("autoencoder")
  attend(call, file, "--latents=1", path)
  figure = saved_image(tmp_path / "predictions" / "clip-attention-maps.png")
  columns = 3 * 128 + 2 * 8  # Three frames of 12 x 16 pixels, enlarged.
  assert figure.shape[1] - columns in range(15, 30)
  assert figure.std() > 10


@pytest.fixture
def audioset_file(tmp_path):
  """Weights of a tiny AudioSet model of video and a spectrogram."""
  spec = zoo.get_spec("audioset_icml_mel_video", num_classes=3)
  spec["encoder"] |= {
    "num_latents": 4, "num_latent_channels": 8, "num_self_attend_heads": 2,
    "num_self_attends_per_block": 1,
  }  # fmt: skip
  for part in spec["adapter"]["modalities"].values():
    part["num_bands"] = 2
  raw = {
    "image": tiny_weights.array(1, 4, 16, 16, 3),
    "audio": tiny_weights.array(1, 80, 1),
  }
  file = tmp_path / "audioset.safetensors"
  weights.save(file, tiny_weights.random(spec, raw))
  return file


def test_weights_of_audioset_need_the_config_of_their_clips(
  call, refuses, audioset_file, tmp_path, smoke_flag
):
  path = tiny_clips.write_clip(tmp_path / "clip.mp4", seconds=1.0)
  weight_flag = f"--weights={audioset_file}"
  refuses("predict", "attention", weight_flag, path, parts=["--config"])
  refuses(
    "predict", "attention", weight_flag, smoke_flag, path, parts=["of clips"]
  )
  config = smoke_flag.replace("digits.py:smoke", "audioset.py:mel_video")
  data = {
    "num_frames": 4, "image_size": "(16,16)", "num_samples": 3840,
    "mel.bands": 20, "mel.window": 1920, "mel.hop": 960,
  }  # fmt: skip
  leaves = [f"--config.data.{name}={value}" for name, value in data.items()]
  attend(call, audioset_file, config, *leaves, path)
  figure = saved_image(tmp_path / "predictions" / "clip-attention-maps.png")
  # The input, and four latents in each of two cross-attends.
  block = 18 + 128 + 8 + 64 + 16
  assert figure.shape[0] == (1 + 2 * 4) * block


def test_wrong_use_is_one_line(refuses, weight_file, image_file):
  classifier = f"--weights={weight_file('classifier')}"
  predict = ("predict", "attention")
  refuses(*predict, classifier, parts=["name images or clips"])
  refuses(*predict, image_file, parts=["--weights", "--workdir"])
  flow = f"--weights={weight_file('flow')}"
  refuses(*predict, flow, image_file, parts=["'flow' adapter", "image"])
  language = f"--weights={weight_file('language')}"
  for empty in ("", " "):
    refuses(*predict, language, "text", empty, parts=["a text is empty"])
  bert = f"--weights={weight_file('byte_bert')}"
  refuses(*predict, bert, "text", parts=["Transformer", "Perceiver"])
  size = f"--image_size={SIZE}"
  refuses(
    *predict, classifier, size, "--latents=1,9", image_file,
    parts=["--latents=1,9", "0 to 3"],
  )  # fmt: skip
  refuses(
    *predict, classifier, size, "--head=1", image_file,
    parts=["--head=1", "1 heads"],
  )  # fmt: skip


def test_softmax_of_shown_logits_is_the_weights(weight_file, image_file):
  logits, _ = image_outputs(weight_file("classifier"), image_file, "logits")
  weighted, _ = image_outputs(weight_file("classifier"), image_file, True)
  np.testing.assert_allclose(
    special.softmax(logits.encoder_attention[0], axis=-1),
    weighted.encoder_attention[0],
    atol=1e-6,
  )
