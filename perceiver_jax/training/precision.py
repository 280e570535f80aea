"""Numerical precision of a model by name.

"bfloat16" computes in bfloat16 with parameters, optimizer, norms, softmax,
logits and loss in float32.
"""

import contextlib
from collections.abc import Iterator

import haiku as hk
import jax.numpy as jnp
import jmp

from perceiver_jax.errors import UserError
from perceiver_jax.models import perceiver

PRECISIONS = ("float32", "bfloat16")

_NORMS = (hk.LayerNorm, hk.BatchNorm)


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
  """Models that are called inside compute in the precision `name`.

  Raises:
    UserError: `name` is not in `PRECISIONS`.
  """
  if name not in PRECISIONS:
    raise UserError(
      f"config.precision is {name!r}; choose one of {', '.join(PRECISIONS)}"
    )
  with contextlib.ExitStack() as stack:
    if name == "bfloat16":
      half, full = jnp.bfloat16, jnp.float32
      policies = {perceiver.Perceiver: jmp.Policy(full, half, full)}
      policies |= dict.fromkeys(_NORMS, jmp.Policy(full, full, half))
      for module, policy in policies.items():
        stack.enter_context(hk.mixed_precision.push_policy(module, policy))
    yield
