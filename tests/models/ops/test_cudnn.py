"""Tests of attention with cuDNN's kernel.

Tests run without a GPU. They use JAX's XLA implementation in place of the
kernel to test padding and masks, and lower the kernel for CUDA.
"""

import jax
import numpy as np
import plain
import pytest
from computing import assert_close, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models import flops
from perceiver_jax.models.ops import cudnn as ops_cudnn
from perceiver_jax.models.ops import dot_product_attention as dpa
from perceiver_jax.models.ops.execution import Execution

_CUDNN = "jax._src.cudnn.fused_attention_stablehlo"


@pytest.fixture
def plain_kernel(monkeypatch):
  monkeypatch.setattr(ops_cudnn, "_IMPLEMENTATION", "xla")


@pytest.fixture
def cudnn(monkeypatch):
  """Makes JAX believe that there is a GPU of the Hopper generation."""
  monkeypatch.setattr(f"{_CUDNN}.check_cudnn_version", lambda: 91000)
  monkeypatch.setattr(f"{_CUDNN}.check_compute_capability", lambda _: True)
  monkeypatch.setattr(
    f"{_CUDNN}.is_cuda_compute_capability_equal", lambda _: False
  )
  ops_cudnn._is_supported.cache_clear()
  yield
  ops_cudnn._is_supported.cache_clear()


def _arrays(shape, seed=0, dtype=jnp.float32):
  b, n, m, h, f, v = shape
  rng = np.random.default_rng(seed)
  sizes = ((b, n, h, f), (b, m, h, f), (b, m, h, v))
  return tuple(jnp.asarray(rng.normal(size=s), dtype) for s in sizes)


def _attend(q, k, v, mask=None):
  return dpa.dot_product_attention(q, k, v, mask, Execution(attention="cudnn"))


@settings(max_examples=2, deadline=None)
@given(
  st.tuples(*[st.integers(1, 3)] * 4, st.integers(1, 9), st.integers(1, 17)),
  st.booleans(),
  st.integers(0, 99),
)
def test_padded_widths_and_masks_agree_with_the_definition(shape, masked, seed):
  args = _arrays(shape, seed)
  b, n, m, *_ = shape
  mask = None
  if masked:
    rng = np.random.default_rng(seed)
    mask = jnp.asarray(rng.random((b, rng.choice([1, n]), m)) < 0.5)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(ops_cudnn, "_IMPLEMENTATION", "xla")
    out = plain.jit(
      with_gradients(lambda *a: ops_cudnn.cudnn_attention(*a, mask))
    )(*args)
  expected = plain.jit(
    with_gradients(lambda *a: dpa.plain_attention(*a, mask))
  )(*args)
  assert_close(out, expected)


def test_fully_masked_examples_are_zero(plain_kernel):
  q, k, v = _arrays((2, 3, 4, 2, 5, 5))
  mask = jnp.ones((2, 1, 4), bool).at[1].set(False)
  out = jax.jit(_attend)(q, k, v, mask)
  assert np.any(out[0])
  assert not np.any(out[1])


# Channels per head in self-attends of ImageNet and flow, and in the encoder of
# the language model.
@pytest.mark.parametrize("widths", [(128, 128), (32, 32), (32, 160), (20, 36)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_kernel_and_its_gradient_lower_for_cuda(cudnn, widths, masked):
  f, v = widths
  args = _arrays((2, 64, 96, 4, f, v), dtype=jnp.bfloat16)
  mask = jnp.ones((2, 1, 96), bool) if masked else None

  def gradients(*args):
    loss = lambda *a: (
      ops_cudnn.cudnn_attention(*a, mask).astype(jnp.float32).sum()
    )
    return jax.grad(loss, (0, 1, 2))(*args)

  lowered = jax.jit(gradients).trace(*args).lower(lowering_platforms=("cuda",))
  text = lowered.as_text()
  assert text.count("custom_call @__cudnn$fmha") == 2
  width = ops_cudnn._width(args[0], args[2])
  assert f"2x64x4x{width}xbf16" in text
  assert ("x64x96x" in text) == masked  # No logits; a mask becomes a bias.


@pytest.mark.parametrize("masked", [False, True])
def test_the_kernel_counts_as_many_operations_as_other_attentions(
  cudnn, masked
):
  args = _arrays((2, 64, 96, 4, 32, 32), dtype=jnp.bfloat16)
  mask = jnp.ones((2, 1, 96), bool) if masked else None
  counts = {}
  for attention in ("cudnn", "xla"):
    execution = Execution(attention=attention)
    attend = lambda *qkv, e=execution: dpa.dot_product_attention(*qkv, mask, e)
    counts[attention] = [
      flops.count_flops(fn, *args) for fn in (attend, with_gradients(attend))
    ]
  assert counts["cudnn"] == counts["xla"]


@pytest.mark.parametrize(
  ("shape", "dtype", "chosen"),
  [
    ((2, 512, 512, 8, 128, 128), jnp.bfloat16, "cudnn"),
    ((2, 512, 512, 8, 128, 128), jnp.float16, "cudnn"),
    ((2, 512, 512, 8, 128, 128), jnp.float32, "xla"),
    ((2, 512, 512, 1, 261, 261), jnp.bfloat16, "xla"),  # Too wide.
    ((2, 512, 512, 8, 8, 32), jnp.bfloat16, "cudnn"),
    ((2, 512, 512, 8, 2, 33), jnp.bfloat16, "xla"),  # Mostly padding.
  ],
)
def test_auto_chooses_cudnn_for_supported_widths_and_types(
  cudnn, shape, dtype, chosen
):
  assert dpa._choose(*_arrays(shape, dtype=dtype), None, "gpu") == chosen


def test_cudnn_without_a_gpu_is_refused():
  q, k, v = _arrays((2, 3, 4, 2, 8, 8), dtype=jnp.bfloat16)
  with pytest.raises(ValueError, match=r"'cudnn'.*choose 'auto'"):
    _attend(q, k, v)


@pytest.mark.parametrize(
  ("platform", "chosen"), [("cpu", "xla"), ("tpu", "chunked")]
)
def test_auto_does_not_choose_cudnn_without_a_gpu(cudnn, platform, chosen):
  q, k, v = _arrays((2, 512, 512, 8, 128, 128), dtype=jnp.bfloat16)
  assert dpa._choose(q, k, v, None, platform) == chosen
