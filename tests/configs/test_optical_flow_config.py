"""Tests that the optical flow config is the paper's recipe."""

import re

import numpy as np
import pytest

from configs import optical_flow
from perceiver_jax.data.flow import sources as flow_sources
from perceiver_jax.training import config_checks, optimizers

ROWS = tuple(optical_flow._MODELS)


@pytest.mark.parametrize("variant", ROWS)
def test_the_docstring_has_the_published_errors(variant):
  config = optical_flow.get_config(variant)
  line = re.search(rf"^  {variant}: .*", optical_flow.__doc__, re.MULTILINE)[0]
  names = ("sintel_clean", "sintel_final", "kitti_2015")
  errors = ", ".join(f"{config.published[name]:.2f}" for name in names)
  assert f"; {errors}." in line


def test_the_seven_variants_are_different_models():
  models = {str(optical_flow.get_config(v).model) for v in ROWS}
  assert len(models) == len(ROWS) == 7


def test_data_steps_and_schedule_are_those_of_the_paper():
  config = optical_flow.get_config("main")
  rendered = flow_sources.make_flow_source(
    "rendered", split="train", **config.data.source_args.rendered.to_dict()
  )
  assert len(rendered) == 400_000
  # The released AutoFlow has 40,000 pairs; every 200th is held out.
  for pairs in (len(rendered), 40_000 - 200):
    assert config_checks.num_steps(config, pairs) == 375_000
  steps = 375_000
  assert 512 * steps / len(rendered) == 480
  assert (config.optimizer.name, config.batch_size) == ("lamb", 512)
  _, schedule = optimizers.from_config(config.optimizer, steps, 512)
  rates = [float(schedule(share * steps)) for share in (0, 0.5, 1)]
  np.testing.assert_allclose(rates, [4e-4, 2e-4, 0], atol=1e-9)


def test_a_smoke_run_of_own_pairs_reads_them():
  for variant, source in (("own,smoke", "pairs"), ("small,smoke", "rendered")):
    data = optical_flow.get_config(variant).data
    assert (data.train_source, data.eval_source) == (source, source)
