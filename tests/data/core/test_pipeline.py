import itertools
import multiprocessing
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.data.core import pipeline
from perceiver_jax.data.core.in_memory import InMemoryArrays
from perceiver_jax.errors import UserError


def _source(length):
  """Returns examples that can be identified: example i has label i."""
  labels = np.arange(length, dtype=np.int32)
  images = np.repeat(labels.astype(np.float32), 4).reshape(length, 2, 2, 1)
  return InMemoryArrays({"image": images, "label": labels}, ["one class"])


def _draw(example, rng):
  """Adds random numbers, which identify the generator, to an example."""
  return {**example, "noise": rng.random(3)}


def _train(length=10, global_batch=4, seed=0, **kwargs):
  kwargs = {"transform": _draw, **kwargs}
  return pipeline.train_dataset(
    _source(length), global_batch=global_batch, seed=seed, **kwargs
  )


def _take(dataset, count):
  iterator = iter(dataset)
  batches = list(itertools.islice(iterator, count))
  iterator.close()
  return batches


def _labels(batches):
  return np.concatenate([batch["label"] for batch in batches]).tolist()


def _assert_same(actual, expected):
  assert len(actual) == len(expected)
  for a, b in zip(actual, expected, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


def _join(parts):
  """Joins the batches of all processes."""
  return [
    {name: np.concatenate([p[name] for p in step]) for name in step[0]}
    for step in zip(*parts, strict=True)
  ]


def test_train_batches_have_the_documented_shapes_and_types():
  (batch,) = _take(_train(), 1)
  kinds = {name: (a.shape, a.dtype.name) for name, a in batch.items()}
  assert kinds == {
    "image": ((4, 2, 2, 1), "float32"),
    "label": ((4,), "int32"),
    "noise": ((4, 3), "float64"),
    "index": ((4,), "int32"),
  }


def test_train_index_is_the_position_in_the_source():
  # Over several epochs, positions must not go past the end of the source.
  for batch in _take(_train(length=7), 12):
    np.testing.assert_array_equal(batch["index"], batch["label"])


def test_train_takes_every_example_once_an_epoch_in_a_new_order():
  labels = np.reshape(_labels(_take(_train(length=10), 10)), (4, 10))
  np.testing.assert_array_equal(np.sort(labels), [range(10)] * 4)
  assert len({tuple(epoch) for epoch in labels}) == 4


def test_train_without_shuffle_or_transform_keeps_the_examples():
  plain = _train(length=6, shuffle=False, transform=None)
  batches = _take(plain, 3)
  assert batches[0].keys() == {"image", "label", "index"}
  assert _labels(batches) == [0, 1, 2, 3, 4, 5] * 2


def test_train_fills_a_batch_larger_than_the_source():
  for batch in _take(_train(length=3, global_batch=6), 2):
    assert sorted(batch["label"]) == [0, 0, 1, 1, 2, 2]


def test_train_depends_on_the_seed_only():
  _assert_same(_take(_train(seed=3), 6), _take(_train(seed=3), 6))
  others = [_take(_train(seed=seed), 6) for seed in (0, 1, 2, 3, 2**40)]
  assert len({tuple(_labels(batches)) for batches in others}) == 5
  assert len({float(b[0]["noise"].sum()) for b in others}) == 5


def test_consecutive_train_seeds_share_no_order_of_an_epoch():
  epochs = set()
  for seed in range(4):
    labels = _labels(_take(_train(length=12, seed=seed), 9))
    epochs |= {tuple(labels[i : i + 12]) for i in (0, 12, 24)}
  assert len(epochs) == 12


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_train_batches_do_not_depend_on_the_number_of_processes(processes):
  parts = [
    _take(
      _train(
        length=11, global_batch=8, process_index=p, process_count=processes
      ),
      5,
    )
    for p in range(processes)
  ]
  assert all(len(batch["label"]) == 8 // processes for batch in parts[0])
  _assert_same(_join(parts), _take(_train(length=11, global_batch=8), 5))


def _noise_by_visit(batches, length):
  """Returns the noise of each example in each epoch, by (epoch, example)."""
  labels = _labels(batches)
  noise = np.concatenate([batch["noise"] for batch in batches])
  return {(i // length, x): tuple(noise[i]) for i, x in enumerate(labels)}


def test_train_generator_depends_on_seed_example_and_epoch_only():
  usual = _noise_by_visit(_take(_train(), 5), 10)
  unshuffled = _take(_train(shuffle=False), 5)
  assert _noise_by_visit(unshuffled, 10) == usual
  larger_batches = _take(_train(global_batch=10), 2)
  assert _noise_by_visit(larger_batches, 10) == usual
  # In 2 epochs of 10 examples, no two visits share their noise.
  assert len(set(usual.values())) == 20
  assert not set(usual.values()) & set(
    _noise_by_visit(_take(_train(seed=1), 5), 10).values()
  )


@settings(max_examples=20, deadline=None)
@given(taken=st.integers(0, 9), ahead=st.integers(0, 3))
def test_train_resumes_at_any_step(taken, ahead):
  # Grain is slow to start an epoch, so 12 batches are only two epochs.
  dataset = _train(length=25)
  expected = _take(dataset, 12)
  first = iter(dataset)
  for _ in range(taken):
    next(first)
  state = first.get_state()
  second = iter(dataset)
  # `set_state` also works on an iterator that has already been used.
  for _ in range(ahead):
    next(second)
  second.set_state(state)
  assert second.get_state() == state
  _assert_same(list(itertools.islice(second, 12 - taken)), expected[taken:])
  first.close()
  second.close()


def test_train_state_is_valid_for_another_number_of_processes():
  iterator = iter(_train(global_batch=8))
  next(iterator)
  parts = []
  for p in range(2):
    part = iter(_train(global_batch=8, process_index=p, process_count=2))
    part.set_state(iterator.get_state())
    parts.append([next(part), next(part)])
  _assert_same(_join(parts), [next(iterator), next(iterator)])


def test_train_resumes_at_any_position_without_replaying():
  iterator = iter(_train())
  iterator.set_state({"next_index": 10**9})
  batch = next(iterator)
  np.testing.assert_array_equal(batch["index"], batch["label"])
  assert iterator.get_state() == {"next_index": 10**9 + 1}


def test_threads_make_the_same_batches():
  source = _source(10)
  source.in_memory = False  # Then several threads read it, as from a disk.
  threaded = pipeline.train_dataset(
    source, global_batch=4, seed=0, transform=_draw
  )
  _assert_same(_take(threaded, 8), _take(_train(), 8))


def test_a_worker_process_makes_the_same_batches_and_resumes():
  expected = _take(_train(), 6)
  iterator = iter(_train(num_workers=1))
  # This is a state of a run without workers.
  iterator.set_state({"next_index": 2})
  _assert_same(list(itertools.islice(iterator, 4)), expected[2:])
  assert iterator.get_state() == {"next_index": 6}
  iterator.close()


@pytest.mark.slow
def test_two_worker_processes_make_the_same_batches():
  _assert_same(_take(_train(num_workers=2), 7), _take(_train(), 7))
  passes = [
    list(
      pipeline.eval_dataset(_source(10), global_batch=4, num_workers=workers)
    )
    for workers in (0, 2)
  ]
  _assert_same(*passes)


@pytest.mark.slow
def test_a_killed_worker_process_is_started_again(caplog):
  expected = _take(_train(), 6)
  iterator = iter(_train(num_workers=1))
  batches = [next(iterator) for _ in range(2)]
  _kill_workers()
  with caplog.at_level("WARNING", "absl"):
    batches += [next(iterator) for _ in range(4)]
  _assert_same(batches, expected)
  assert "starting it again at batch" in caplog.text
  with pytest.raises(UserError, match=r"lower config\.data\.num_workers"):
    _take_without_workers(iterator, 100)
  iterator.close()


@pytest.mark.slow
def test_a_worker_process_ends_when_the_run_is_killed():
  code = """
import time
import numpy as np
from absl import flags
from perceiver_jax.data.core import in_memory, pipeline
flags.FLAGS(["run"])  # Grain reads some.
images = np.zeros((10, 2, 2, 1), np.float32)
labels = np.zeros(10, np.int32)
source = in_memory.InMemoryArrays({"image": images, "label": labels}, ["a"])
dataset = pipeline.train_dataset(source, global_batch=4, seed=0, num_workers=1)
iterator = iter(dataset)
next(iterator)
print("started", flush=True)
time.sleep(600)
"""
  run = subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
  )
  assert run.stdout.readline() == "started\n"
  run.kill()
  # The worker has the same standard output, which ends when both have ended.
  assert run.communicate(timeout=60) == ("", None)


def _take_without_workers(iterator, count):
  for _ in range(count):
    _kill_workers()
    next(iterator)


def _kill_workers():
  for worker in multiprocessing.active_children():
    worker.kill()
    worker.join()


def _interrupt_handler(example):
  """Replaces an example by what its process does on Ctrl-C."""
  del example
  ignores = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
  blocks = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
  return {"ignores": np.bool_(ignores), "blocks": np.bool_(blocks)}


@pytest.mark.slow
def test_worker_processes_leave_interrupts_to_the_first():
  for workers in (0, 1):
    dataset = pipeline.eval_dataset(
      _source(1),
      global_batch=1,
      transform=_interrupt_handler,
      num_workers=workers,
    )
    (batch,) = _take(dataset, 1)
    assert batch["ignores"] == [workers > 0]
    # From its start, before it can ignore them.
    assert batch["blocks"] == [workers > 0]


class _Damaged(InMemoryArrays):
  def __getitem__(self, index):
    if index == 2:
      raise UserError("'x.jpg' is damaged")
    return super().__getitem__(index)


def test_an_error_of_the_source_is_passed_on_unchanged():
  source = _Damaged({"label": np.arange(4)}, ["a"])
  iterator = iter(
    pipeline.train_dataset(source, global_batch=1, seed=0, shuffle=False)
  )
  next(iterator), next(iterator)
  with pytest.raises(UserError) as error:
    next(iterator)
  assert str(error.value) == "'x.jpg' is damaged"
  assert iterator.get_state() == {"next_index": 2}


@settings(max_examples=30, deadline=None)
@given(
  length=st.integers(1, 21),
  local_batch=st.integers(1, 5),
  processes=st.sampled_from([1, 2, 4]),
)
def test_eval_takes_each_example_once(length, local_batch, processes):
  source = _source(length)
  global_batch = local_batch * processes
  parts = [
    list(
      pipeline.eval_dataset(
        source,
        global_batch=global_batch,
        process_index=p,
        process_count=processes,
      )
    )
    for p in range(processes)
  ]
  # Every process must take part in every step, or the others would wait.
  assert {len(part) for part in parts} == {-(-length // global_batch)}
  assert {len(b["label"]) for part in parts for b in part} == {local_batch}
  batches = _join(parts)
  mask = np.concatenate([batch["mask"] for batch in batches])
  labels = np.array(_labels(batches))
  assert labels[mask == 1].tolist() == list(range(length))
  assert set(labels[mask == 0].tolist()) <= {length - 1}
  assert set(mask.tolist()) <= {0.0, 1.0}


def test_eval_batches_have_the_documented_shapes_and_types():
  def transform(example):
    return {**example, "image": example["image"] + 100}

  dataset = pipeline.eval_dataset(
    _source(5), global_batch=4, transform=transform
  )
  last = list(dataset)[-1]
  kinds = {name: (a.shape, a.dtype.name) for name, a in last.items()}
  assert kinds == {
    "image": ((4, 2, 2, 1), "float32"),
    "label": ((4,), "int32"),
    "index": ((4,), "int32"),
    "mask": ((4,), "float32"),
  }
  assert last["mask"].tolist() == [1, 0, 0, 0]
  assert last["index"].tolist() == [4, 4, 4, 4]
  assert last["image"][:, 0, 0, 0].tolist() == [104] * 4


def test_eval_masks_the_replacements_of_unreadable_examples():
  arrays = {"label": np.arange(5), "unreadable": np.float32([0, 1, 0, 0, 1])}
  dataset = pipeline.eval_dataset(
    InMemoryArrays(arrays, ["one class"]),
    global_batch=4,
    # The transform may drop the leaf `unreadable`.
    transform=lambda example: {"label": example["label"]},
  )
  batches = list(dataset)
  mask = np.concatenate([batch["mask"] for batch in batches])
  assert mask.tolist() == [1, 0, 1, 1, 0, 0, 0, 0]
  assert mask.dtype == np.float32


def test_eval_can_be_repeated_and_resumed():
  dataset = pipeline.eval_dataset(_source(10), global_batch=4)
  expected = list(dataset)
  _assert_same(list(dataset), expected)
  iterator = iter(dataset)
  for taken in (2, 0, 3, 1):
    iterator.set_state({"next_index": taken})
    _assert_same(list(iterator), expected[taken:])


@pytest.mark.parametrize("next_index", [-1, 4])
def test_a_state_past_the_end_is_refused(next_index):
  iterator = iter(pipeline.eval_dataset(_source(10), global_batch=4))
  with pytest.raises(ValueError, match=f"batch {next_index} of 3"):
    iterator.set_state({"next_index": next_index})


def test_a_closed_iterator_stays_closed():
  iterator = iter(_train())
  next(iterator)
  iterator.close()
  iterator.close()
  with pytest.raises(ValueError, match="closed"):
    next(iterator)


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"global_batch": 6, "process_count": 4}, "size 6 does not divide over 4"),
    ({"global_batch": 0}, "batch size is 0; give 1 or more"),
    ({"num_workers": -1}, "num_workers is -1; give 0 or more"),
  ],
)
def test_numbers_out_of_range_are_refused(kwargs, message):
  kwargs = {"global_batch": 4, **kwargs}
  with pytest.raises(UserError, match=message):
    pipeline.train_dataset(_source(9), seed=0, **kwargs)
  with pytest.raises(UserError, match=message):
    pipeline.eval_dataset(_source(9), **kwargs)


def test_a_negative_seed_is_refused():
  with pytest.raises(UserError, match="the seed is -1; give 0 or more"):
    _train(seed=-1)


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_a_process_index_out_of_range_is_refused(index, count):
  with pytest.raises(ValueError, match=f"process {index} of {count}"):
    _train(process_index=index, process_count=count)


def test_an_empty_source_is_refused():
  with pytest.raises(UserError, match="empty dataset"):
    pipeline.train_dataset([], global_batch=1, seed=0)
  with pytest.raises(UserError, match="empty dataset"):
    pipeline.eval_dataset([], global_batch=1)


def _positions(example, rng, position):
  """A curriculum that records its arguments in the example."""
  return {**example, "position": np.int64(position), "drawn": rng.random(3)}


def _curriculum_batches(count=6, **kwargs):
  dataset = _train(seed=3, transform=None, curriculum=_positions, **kwargs)
  return _take(dataset, count)


def _column(batches, name):
  return np.concatenate([batch[name] for batch in batches])


def test_a_curriculum_is_given_the_position_in_training():
  batches = _curriculum_batches()
  assert set(batches[0]) == {"image", "label", "index", "position", "drawn"}
  np.testing.assert_array_equal(_column(batches, "position"), range(24))
  # A curriculum changes neither the order nor other random numbers.
  assert _labels(batches) == _labels(_take(_train(seed=3), 6))
  assert len(np.unique(_column(batches, "drawn"))) == 3 * 24


@pytest.mark.parametrize("doubled", [6, 7])
def test_the_first_examples_occur_twice_in_succession(doubled):
  plain, batches = (
    _curriculum_batches(),
    _curriculum_batches(num_doubled=doubled),
  )
  for name in ("label", "drawn"):
    once = _column(plain, name)
    expected = np.concatenate([once[:3].repeat(2, axis=0), once[3:21]])
    np.testing.assert_array_equal(_column(batches, name), expected)
  np.testing.assert_array_equal(_column(batches, "position"), range(24))


def test_a_curriculum_is_the_same_on_several_processes():
  parts = [
    _curriculum_batches(num_doubled=6, process_index=i, process_count=2)
    for i in range(2)
  ]
  _assert_same(_join(parts), _curriculum_batches(num_doubled=6))


def test_a_curriculum_resumes_from_a_state():
  dataset = _train(transform=None, curriculum=_positions, num_doubled=6)
  first, second = iter(dataset), iter(dataset)
  for _ in range(2):
    next(first)
  second.set_state(first.get_state())
  _assert_same([next(second)], [next(first)])
  first.close()
  second.close()


# Partners.


def test_partners_are_the_next_examples_of_the_order():
  plain = _labels(_take(_train(length=9, global_batch=8), 6))
  batches = _take(_train(length=9, with_partners=True), 6)
  pairs = np.stack([_labels(batches), _partner_labels(batches)], 1)
  np.testing.assert_array_equal(pairs.ravel(), plain)
  # So every image is in one pair of an epoch and the next.
  assert sorted(pairs.ravel()[:9]) == list(range(9))


def test_partners_have_the_documented_fields():
  (batch,) = _take(_train(with_partners=True), 1)
  kinds = {name: (a.shape, a.dtype.name) for name, a in batch.items()}
  example = {
    "image": ((4, 2, 2, 1), "float32"),
    "label": ((4,), "int32"),
    "noise": ((4, 3), "float64"),
  }
  assert kinds == {
    **example,
    **{f"partner_{name}": kind for name, kind in example.items()},
    "index": ((4,), "int32"),
    "batch_position": ((4,), "int32"),
  }
  assert (batch["noise"] != batch["partner_noise"]).any(axis=1).all()


@pytest.mark.parametrize("processes", [2, 4])
def test_partners_are_the_same_on_several_processes(processes):
  expected = _take(_train(with_partners=True), 5)
  parts = [
    _take(
      _train(with_partners=True, process_index=i, process_count=processes), 5
    )
    for i in range(processes)
  ]
  _assert_same(_join(parts), expected)
  for batch in expected:
    np.testing.assert_array_equal(batch["batch_position"], np.arange(4))


def test_partners_resume_from_a_state():
  expected = _take(_train(length=7, with_partners=True), 6)
  iterator = iter(_train(length=7, with_partners=True))
  iterator.set_state({"next_index": 4})
  _assert_same([next(iterator), next(iterator)], expected[4:])
  iterator.close()


def _partner_labels(batches):
  return np.concatenate([batch["partner_label"] for batch in batches]).tolist()
