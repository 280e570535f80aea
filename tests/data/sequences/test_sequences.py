"""Tests of sequences of tokens, their crops and windows."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.data.core.in_memory import InMemory
from perceiver_jax.data.sequences import crops, images, mirrored, source, text
from perceiver_jax.data.sequences.source import EOS, NUM_SPECIAL, PAD, SOS
from perceiver_jax.data.sequences.token_files import token_files
from perceiver_jax.data.text import byte_tokenizer, tokenizers
from perceiver_jax.errors import UserError


class Counting:
  """Sequences of given lengths whose tokens count up from 1."""

  in_memory = True

  def __init__(self, lengths, first_target=1):
    self._lengths = lengths
    self.first_target = first_target

  def __len__(self):
    return len(self._lengths)

  def __getitem__(self, index):
    tokens = np.arange(1, self._lengths[index] + 1, dtype=np.int32)
    return {
      "tokens": tokens,
      "positions": source.counted(tokens),
      "num_units": len(tokens) + 0.5,
    }

  def lengths(self):
    return np.array(self._lengths, np.int64)


@settings(max_examples=30, deadline=None)
@given(
  st.lists(st.integers(2, 30), min_size=1, max_size=4),
  st.integers(1, 5),
  st.integers(0, 3),
  st.integers(0, 10),
)
def test_windows_predict_each_token_once(lengths, latents, less, more):
  stride, num_inputs = max(1, latents - less), latents + more
  windows = source.Windows(Counting(lengths), stride)
  predicted, units = [], 0.0
  for i in range(len(windows)):
    example = windows[i]
    units += example["num_units"]
    end, count = example["end"], example["end"] - example["start"]
    out = crops.crop(example, end, count, num_inputs, latents)
    targets = out["targets"]
    assert (targets != PAD).sum() == count
    assert (targets[latents - count :] == np.arange(end - count, end) + 1).all()
    predicted.append(targets[targets != PAD])
    # The last input is the token before the last target.
    inputs = out["tokens"][out["tokens"] != PAD]
    assert inputs[-1] == targets[-1] - 1
    assert len(inputs) == min(num_inputs, end - 1)
    positions = out["positions"][: len(inputs), 0]
    assert (positions == np.arange(1, len(inputs) + 1)).all()
    assert not out["positions"][len(inputs) :].any()
  expected = [np.arange(2, length + 1) for length in lengths]
  np.testing.assert_array_equal(
    np.concatenate(predicted), np.concatenate(expected)
  )
  assert units == pytest.approx(sum(lengths) + 0.5 * len(lengths), rel=1e-5)


def test_windows_begin_at_the_first_target_that_counts():
  windows = source.Windows(Counting([10, 7], first_target=6), 3)
  spans = [(windows[i]["start"], windows[i]["end"]) for i in range(3)]
  assert (len(windows), spans) == (3, [(6, 9), (9, 10), (6, 7)])


def test_random_crops_end_anywhere_from_the_shortest_on():
  rng = np.random.default_rng(0)
  ends = {crops.random_end(8, 5, rng) for _ in range(200)}
  assert ends == {5, 6, 7, 8}
  assert {crops.random_end(4, 9, rng) for _ in range(20)} == {4}
  assert {crops.random_end(3, 0, rng) for _ in range(50)} == {2, 3}


def test_a_short_crop_leaves_latents_without_targets():
  example = Counting([3])[0]
  out = crops.crop(example, 3, 4, num_inputs=6, num_latents=4)
  assert out["tokens"].tolist() == [1, 2, 0, 0, 0, 0]
  assert out["targets"].tolist() == [0, 0, 2, 3]


def test_chained_sequences_follow_each_other():
  chain = source.Chain([Counting([2, 3]), Counting([4])])
  assert (len(chain), chain.lengths().tolist()) == (3, [2, 3, 4])
  assert [len(chain[i]["tokens"]) for i in range(3)] == [2, 3, 4]


def test_the_second_half_mirrors_the_first():
  data = mirrored.Mirrored("test", 12, num_test=3, num_values=256)
  assert len(data) == 3
  tokens = data[1]["tokens"]
  assert (tokens[0], tokens[-1]) == (SOS, EOS)
  np.testing.assert_array_equal(tokens[1:6], tokens[6:11][::-1])
  assert tokens[1:-1].min() >= NUM_SPECIAL
  assert (tokens == data[1]["tokens"]).all()
  assert (tokens != data[2]["tokens"]).any()
  other = mirrored.Mirrored("train", 12)
  assert (tokens != other[1]["tokens"]).any()
  # The first that counts is the first of the mirror image.
  assert data.first_target == 6
  with pytest.raises(UserError, match="an even number"):
    mirrored.Mirrored("test", 9)
  with pytest.raises(UserError, match="num_values is 0; give 1 or more"):
    mirrored.Mirrored("test", 12, num_values=0)


def test_texts_are_joined_between_special_tokens():
  texts = text.Texts(InMemory(["ab", "ç", "d e"]), tokenizers.Bytes(), 2)
  assert len(texts) == 2
  example = texts[0]
  tokens = example["tokens"]
  assert (tokens[0], tokens[-1]) == (byte_tokenizer.BOS, byte_tokenizer.EOS)
  assert byte_tokenizer.decode(tokens[1:-1]) == "ab\n\nç"
  assert (example["num_units"], example["num_words"]) == (6, 2)
  assert texts.lengths().tolist() == [len(tokens), 5]


def test_random_parts_of_a_text_end_anywhere_from_the_shortest_on():
  words = "abcdefghij" * 3
  rng = np.random.default_rng(0)
  ends = set()
  for _ in range(300):
    example = text.random_part(words, tokenizers.Bytes(), 6, 4, rng)
    tokens = example["tokens"]
    assert 2 <= len(tokens) <= 6
    inner = tokens[tokens > byte_tokenizer.EOS]
    assert byte_tokenizer.decode(inner) in words
    is_last = tokens[-1] == byte_tokenizer.EOS
    assert (tokens[0] == byte_tokenizer.BOS) == (len(inner) < 6 - is_last)
    ends.add(bytes(tokens))
  assert len(ends) > 10
  assert any(part[-4] == byte_tokenizer.EOS for part in ends)
  empty = text.random_part("", tokenizers.Bytes(), 6, 4, rng)["tokens"]
  assert empty.tolist() == [byte_tokenizer.BOS, byte_tokenizer.EOS]


def test_images_are_values_in_raster_order():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (2, 3, 3), np.uint8)
  example = images.Images(InMemory([{"image": image}]), (2, 3, 3))[0]
  assert example["tokens"][0] == SOS
  values = example["tokens"][1:] - NUM_SPECIAL
  np.testing.assert_array_equal(values, image.reshape(-1))
  columns, rows, channels = example["positions"].T
  assert [columns[0], rows[0], channels[0]] == [1, 1, 1]
  at = 1 + (1 * 3 + 2) * 3 + 1  # Row 1, column 2, green.
  assert (columns[at], rows[at], channels[at]) == (4, 3, 3)
  assert example["num_units"] == image.size


def test_images_whose_values_are_not_bytes_are_refused():
  source = InMemory([{"image": np.zeros((8, 8, 1), np.float32)}])
  with pytest.raises(UserError, match="images of float32"):
    images.Images(source, (8, 8, 1))[0]


@pytest.mark.parametrize("shape", [(8, 8, 3), (4, 4, 1)])
def test_images_of_other_sizes_are_resized(shape):
  image = np.full((16, 20, 3), 40, np.uint8)
  example = images.Images(InMemory([{"image": image}]), shape)[0]
  assert (example["tokens"][1:] == 40 + NUM_SPECIAL).all()
  assert len(example["tokens"]) == np.prod(shape) + 1


def _write(folder):
  """Writes the ids 0 to 3 in each form of file."""
  ids = np.arange(4)
  np.save(folder / "a.npy", ids)
  np.save(folder / "b.npy", np.stack([ids, ids]))
  np.savez(folder / "c.npz", x=ids, y=ids)
  (folder / "d.json").write_text(json.dumps(ids.tolist()))
  (folder / "e.json").write_text(json.dumps({"ids": [ids.tolist()] * 2}))
  lines = [json.dumps(ids.tolist()), "", json.dumps({"ids": ids.tolist()})]
  (folder / "f.jsonl").write_text("\n".join(lines))
  (folder / "notes.txt").write_text("not read")


def _npy():
  file = io.BytesIO()
  np.save(file, np.arange(9) % 4)
  return file.getvalue()


def _npz():
  file = io.BytesIO()
  np.savez_compressed(file, x=np.arange(9) % 4)
  return file.getvalue()


def test_token_files_of_all_kinds_are_read(tmp_path):
  _write(tmp_path)
  train, test = (
    token_files(str(tmp_path), split, num_values=4)
    for split in ("train", "test")
  )
  assert (len(train), len(test)) == (9, 1)
  expected = [SOS, *range(NUM_SPECIAL, NUM_SPECIAL + 4), EOS]
  assert all(train[i]["tokens"].tolist() == expected for i in range(9))
  assert train.lengths().tolist() == [6] * 9
  whole = token_files(
    f"{tmp_path}/*.npy", "train", eval=f"{tmp_path}/d.json", num_values=4
  )
  held_out = token_files(
    f"{tmp_path}/*.npy", "test", eval=f"{tmp_path}/d.json", num_values=4
  )
  assert (len(whole), len(held_out)) == (3, 1)


@pytest.mark.parametrize(
  ("name", "contents", "message"),
  [
    ("a.json", b'{"notes": [1]}', 'an object without "ids"'),
    ("a.json", b"[1, 99]", r"0 to 3 are expected; .*num_values"),
    ("a.json", b"[1, 0.5]", "float64"),
    ("a.json", b"[[1, [2]]]", "can't be read as a file of token ids"),
    ("a.json", b"[1, ", "can't be read as a file of token ids"),
    ("a.jsonl", b"7", "not a list of ids"),
    ("a.npy", b"\x93NUMPY", "can't be read as a file of token ids"),
    ("a.npy", _npy().replace(b"(9,)", b"(9,("), "not an array of NumPy"),
    ("a.npy", _npy().replace(b"(9,), ", b"(9**9)"), "not an array of NumPy"),
    ("a.npy", _npy().replace(b"(9,), }    ", b"(99999,), }"), "incomplete"),
    ("a.npy", _npy().replace(b"(9,), }  ", b"(True,), }"), "damaged"),
    ("a.npz", b"PK\x03\x04", "can't be read as a file of token ids"),
    ("a.npz", _npz()[:60] + b"\xff" * 9 + _npz()[69:], "damaged"),
  ],
)
def test_damaged_token_files_are_named(tmp_path, name, contents, message):
  (tmp_path / name).write_bytes(contents)
  with pytest.raises(UserError, match=message) as error:
    token_files(str(tmp_path), "train", num_values=4)
  assert name in str(error.value)


def test_a_single_sequence_is_only_held_out(tmp_path):
  (tmp_path / "a.json").write_text("[1, 2]")
  assert len(token_files(str(tmp_path), "test")) == 1
  with pytest.raises(UserError, match=r"is 1 sequence, and it .*files\.eval"):
    token_files(str(tmp_path), "train")


def test_a_folder_without_token_files_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"no token file .*token_files.train"):
    token_files(str(tmp_path), "train")
