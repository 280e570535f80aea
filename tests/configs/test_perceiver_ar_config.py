"""Tests of the recipes of Perceiver AR."""

import pytest

from configs import perceiver_ar as config_file
from perceiver_jax.training import optimizers


# The authors' code.
@pytest.mark.parametrize(
  ("variant", "context", "latents", "depth", "batch_size", "min_crop"),
  [
    ("copy_32", 32, 16, 1, 1024, 16),
    ("copy_131072", 131_072, 1024, 6, 4096, 65_536),
    ("imagenet64", 12_416, 1024, 60, 2048, 0),
  ],
)
def test_recipes_are_the_authors(
  variant, context, latents, depth, batch_size, min_crop
):
  config = config_file.get_config(variant)
  encoder, data = config.model.encoder, config.data
  assert (data.context_length, data.min_crop) == (context, min_crop)
  assert (encoder.num_latents, encoder.num_self_attends) == (latents, depth)
  assert (encoder.num_latent_channels, encoder.num_heads) == (1024, 16)
  assert (encoder.dropout, encoder.input_dropout) == (0.1, 0.0)
  assert (config.batch_size, config.num_steps) == (batch_size, 1_000_000)
  optimizer = config.optimizer
  # Of the sum over the tokens of a batch.
  tokens = batch_size * latents
  assert optimizer.clip_norm * tokens == pytest.approx(1.0)
  assert optimizer.eps * tokens == pytest.approx(1e-8)
  assert (optimizer.name, optimizer.weight_decay) == ("adamw", 0.0)
  assert (optimizer.b1, optimizer.b2) == (0.9, 0.999)
  assert config.z_loss == 1e-4


@pytest.mark.parametrize(
  ("variant", "rates"),
  [
    (
      "imagenet64",
      {
        0: 0,
        5_000: 1.5e-4,
        10_000: 3e-4,
        950_000: 3e-4,
        975_000: 1.5e-4,
        1_000_000: 0,
      },
    ),
    ("copy_131072", {500: 1.5e-4, 1_000: 3e-4, 500_500: 1.5e-4}),
  ],
)
def test_learning_rates_are_the_authors(variant, rates):
  config = config_file.get_config(variant)
  _, schedule = optimizers.from_config(
    config.optimizer, config.num_steps, config.batch_size
  )
  for step, rate in rates.items():
    assert float(schedule(step)) == pytest.approx(rate, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(
  ("variant", "metric", "value"),
  [
    ("imagenet64", "bits_per_dim", 3.40),
    ("wikitext103", "word_perplexity", 17.58),
    ("pg19", "word_perplexity", 45.9),
    ("maestro", "loss", 1.82),
  ],
)
def test_published_results_are_those_of_the_docstring(variant, metric, value):
  config = config_file.get_config(variant)
  assert config.published[metric] == value
  assert f"{value:.2f}".rstrip("0") in config_file.__doc__


def test_the_model_of_own_text_has_bytes_for_tokens():
  config = config_file.get_config("own")
  assert config.data.corpora.own.source == "files"
  assert config.model == config_file.get_config("bytes").model
  other = config_file.get_config("books,own")
  assert other.data.tokenizer == "sentencepiece.model"
  assert other.model.encoder.num_self_attends == 36
