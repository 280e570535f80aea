import re

import numpy as np
import pytest
import tiny_weights

from perceiver_jax import weights
from perceiver_jax.data.sequences import images
from perceiver_jax.data.text import byte_tokenizer
from perceiver_jax.evaluation import sampling

pytestmark = pytest.mark.usefixtures("compile_once")

_BYTES = byte_tokenizer.VOCAB_SIZE
_SHAPE = (2, 2, 3)


@pytest.fixture
def generate(call, weight_file):
  """Returns a function that calls generate with a model of bytes."""
  flag = f"--weights={weight_file('perceiver_ar', _BYTES)}"
  return lambda *arguments: call("predict", "generate", flag, *arguments)


def _text(file, prompt, num_tokens, **options):
  """Returns what should be printed for a prompt."""
  tokens = np.concatenate([[byte_tokenizer.BOS], byte_tokenizer.encode(prompt)])
  sampler = sampling.Sampler(
    weights.load(file), tiny_weights.LENGTH, use_cache=False, **options
  )
  more = sampler.generate(tokens[None], num_tokens)[0]
  ends = np.flatnonzero(more == byte_tokenizer.EOS)
  more = more[: ends[0]] if len(ends) else more
  return byte_tokenizer.decode(np.concatenate([tokens, more]))


def _printable(text):
  return "".join(
    c if c.isprintable() or c == "\n" else " " if c.isspace() else "\ufffd"
    for c in text
  )


def test_text_continues_the_prompt(generate, weight_file):
  done = generate("--prompt=a fox", "--num_tokens=40", "--temperature=0")
  assert done.status == 0, done.err
  text, _, speed = done.out.rstrip("\n").rpartition("\n")
  file = weight_file("perceiver_ar", _BYTES)
  assert text == _printable(_text(file, "a fox", 40, temperature=0.0))
  assert re.fullmatch(r"\d+ tokens in \d+\.\d s: [\d,.]+ tokens/s", speed)


def test_seed_and_number_of_samples(generate):
  flags = ("--num_tokens=8", "--num_samples=2", "--top_p=0.9")
  once, again = (generate(*flags, "--seed=1").out for _ in range(2))
  assert once.splitlines()[:-1] == again.splitlines()[:-1]
  uncached = generate(*flags, "--seed=1", "--nocache").out
  assert once.splitlines()[:-1] == uncached.splitlines()[:-1]
  assert once.splitlines()[:-1] != generate(*flags).out.splitlines()[:-1]


def test_other_tokens_are_read_from_and_saved_to_files(
  call, weight_file, tmp_path
):
  ids = np.array([5, 200, 0])
  np.save(tmp_path / "prompt.npy", ids)
  flags = (f"--weights={weight_file('perceiver_ar')}", "--num_tokens=6")
  for prompt in ("prompt.npy", "predictions/generated.npz"):
    done = call("predict", "generate", *flags, f"--prompt={prompt}")
    assert done.status == 0, done.err
    assert done.out.startswith("wrote predictions")
  first, second = (
    np.load(tmp_path / "predictions" / name)["sequence_0"]
    for name in ("generated.npz", "generated-2.npz")
  )
  np.testing.assert_array_equal(first[:3], ids)
  np.testing.assert_array_equal(second[: len(first)], first)


def test_images_are_completed(call, weight_file, tmp_path):
  file = weight_file("perceiver_ar", 259, tuple(n + 2 for n in _SHAPE))
  flags = (f"--weights={file}", "--seed=2")
  done = call("predict", "generate", *flags)
  assert done.status == 0, done.err
  values = np.load(tmp_path / "predictions" / "generated.npz")["sequence_0"]
  positions = images.positions(_SHAPE)
  sampler = sampling.Sampler(weights.load(file), len(positions), positions)
  (tokens,) = sampler.generate(np.array([[2]]), 12, seed=2)
  np.testing.assert_array_equal(values, np.maximum(tokens - 3, 0))
  assert (tmp_path / "predictions" / "generated.png").exists()


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    (["a fox"], ["'a fox'", "--prompt"]),
    (["--temperature=-1"], ["temperature is -1"]),
    (["--top_p=2"], ["top_p is 2"]),
    (["--prompt=\udce9"], ["UTF-8"]),
    ([f"--seed={2**32}"], ["--seed"]),
    (["--seed=-1"], ["--seed"]),
  ],
)
def test_bad_arguments_are_refused(refuses, weight_file, arguments, parts):
  flag = f"--weights={weight_file('perceiver_ar', _BYTES)}"
  refuses("predict", "generate", flag, *arguments, parts=parts)


def test_files_that_hold_no_tokens_are_refused(refuses, weight_file):
  flag = f"--weights={weight_file('perceiver_ar')}"
  for prompt, part in (("a fox", "is not a file"), ("x.npy", "can't be read")):
    refuses(
      "predict", "generate", flag, f"--prompt={prompt}", parts=[prompt, part]
    )


def test_more_values_than_an_image_has_are_refused(refuses, weight_file):
  file = weight_file("perceiver_ar", 259, tuple(n + 2 for n in _SHAPE))
  parts = ["12 values", "--num_tokens"]
  refuses(
    "predict", "generate", f"--weights={file}", "--num_tokens=13", parts=parts
  )


def test_weights_of_another_kind_are_refused(refuses, weight_file):
  flag = f"--weights={weight_file('language')}"
  parts = ["'masked_lm' decoder", "'next_token'"]
  refuses("predict", "generate", flag, parts=parts)
