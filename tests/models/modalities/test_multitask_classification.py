"""Tests of the multitask classification decoder."""

import jax
import numpy as np
import plain
import pytest
from jax import numpy as jnp

from perceiver_jax.models import zoo

_OUTPUTS = {"b": 3, "a": 1, "unused": 0}
_LENGTH = 6
_TOKENS = np.array([[7, 8, 9, 0, 0, 0], [8, 8, 7, 9, 0, 0]], np.int32)


def _spec(decoder, transformer=False, **adapter):
  encoder = {
    "num_latents": 3,
    "num_latent_channels": 8,
    "num_blocks": 1,
    "num_self_attends_per_block": 1,
    "num_self_attend_heads": 2,
  }
  if transformer:
    encoder = {"kind": "transformer", "num_layers": 1, "num_heads": 2}
  return {
    "adapter": {
      "kind": "text",
      "vocab_size": 11,
      "num_channels": 4,
      "max_length": _LENGTH,
      **adapter,
    },
    "encoder": encoder,
    "decoder": decoder,
  }


def _classes(query="task", **kwargs):
  decoder = {
    "kind": "multitask_classification",
    "outputs": _OUTPUTS,
    "query": query,
    "num_hidden_channels": 5,
  }
  if query != "first_latent":
    decoder |= {"max_length": _LENGTH, "num_query_channels": 4, "num_heads": 1}
  return _spec(decoder, query == "first_latent", **kwargs)


def _model(spec):
  def run(tokens, tasks=None):
    mask = jnp.asarray(tokens != 0)
    return zoo.build(spec)(
      tokens, is_training=False, input_mask=mask, queries=tasks
    ).logits

  return plain.transform(run)


@pytest.mark.parametrize("query", ["task", "first_position", "first_latent"])
def test_queries_select_the_outputs_of_the_task_of_each_example(query):
  model = _model(_classes(query))
  params = plain.random_params(model, _TOKENS)
  all_tasks = plain.jit(model.apply)(params, _TOKENS)
  assert all_tasks.shape == (2, 2, 3)
  # Tasks are sorted by name: "a" has one output, "b" three.
  assert np.all(all_tasks[:, 0, 1:] == -1e9)
  assert np.all(np.abs(all_tasks[:, 1]) < 1e3)
  out = plain.jit(model.apply)(params, _TOKENS, jnp.array([1, 0]))
  np.testing.assert_allclose(out, [all_tasks[0, 1], all_tasks[1, 0]], rtol=1e-5)


def test_heads_are_two_layers_with_tanh_between():
  model = _model(_classes("first_latent"))
  params = plain.random_params(model, _TOKENS)
  # With weights of zero, a head does not depend on its inputs.
  (name,) = (k for k in params if k.endswith("b_hidden"))
  hidden, output = params[name], params[name.replace("hidden", "output")]
  assert hidden["w"].shape == (4, 5)
  assert output["w"].shape == (5, 3)
  apply = plain.jit(model.apply)
  bias = {name: {**hidden, "w": jnp.zeros((4, 5))}}
  out = apply({**params, **bias}, _TOKENS)[:, 1]
  expected = np.tanh(hidden["b"]) @ output["w"] + output["b"]
  np.testing.assert_allclose(out, np.stack([expected] * 2), rtol=1e-5)


def test_parameters_have_the_names_of_a_pretrained_language_model():
  pretrained = _model(
    _spec(
      {
        "kind": "masked_lm", "max_length": _LENGTH, "num_query_channels": 4,
        "num_heads": 1, "use_query_residual": False,
      }
    )
  )  # fmt: skip
  pretrained_params = jax.eval_shape(
    pretrained.init, jax.random.key(0), _TOKENS
  )
  spec = _classes("first_position")
  params = jax.eval_shape(_model(spec).init, jax.random.key(0), _TOKENS)
  same = {k for k in params if params[k] == pretrained_params.get(k)}
  new = {k.rpartition("/")[2] for k in params.keys() - same}
  assert new == {"a_hidden", "a_output", "b_hidden", "b_output"}
  # Of the pretrained model, only the bias of the logits is not used.
  assert {k for k in pretrained_params if k not in same} == {
    next(k for k in pretrained_params if k.rpartition("/")[2] == "decoder")
  }


def test_the_norm_of_a_pretrained_transformer_keeps_its_name():
  pretrained = _model(_spec({"kind": "token"}, transformer=True))
  pretrained_params = jax.eval_shape(
    pretrained.init, jax.random.key(0), _TOKENS
  )
  params = jax.eval_shape(
    _model(_classes("first_latent")).init, jax.random.key(0), _TOKENS
  )
  (norm,) = (k for k in pretrained_params if k.endswith("decoder/norm"))
  assert params[norm] == pretrained_params[norm]


def test_task_tokens_have_their_own_embeddings():
  model = _model(_classes("first_position", num_task_tokens=2))
  tokens = _TOKENS.copy()
  tokens[:, 0] = [11, 12]
  params = plain.random_params(model, tokens)
  (adapter,) = (k for k in params if k.endswith("adapter"))
  assert params[adapter]["embeddings"].shape == (11, 4)
  own = params[adapter]["task_embeddings"]
  assert own.shape == (2, 4)
  apply = plain.jit(model.apply)
  before = apply(params, tokens)
  changed = {**params[adapter], "task_embeddings": own.at[1, 0].add(1.0)}
  after = apply({**params, adapter: changed}, tokens)
  np.testing.assert_array_equal(before[0], after[0])
  assert np.abs(before[1] - after[1]).max() > 1e-3


@pytest.mark.parametrize(
  ("decoder", "message"),
  [
    ({"query": "all"}, "query 'all': choose one of task"),
    ({"outputs": {"a": 0}}, "no task has outputs"),
  ],
)
def test_invalid_decoders_are_refused(decoder, message):
  spec = _classes()
  spec["decoder"] |= decoder
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(_model(spec).init, jax.random.key(0), _TOKENS)
