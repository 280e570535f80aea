"""The entity encoder of AlphaStar (Perceiver IO v3, app. B).

The papers do not state the latents' 512 channels and the MLPs' widening of 4;
they are chosen because they fit the published 0.93B operations (with 32
latents, 3 layers and 128 channels of input and query). The 256 features of an
entity are those of the inputs of 512 x 256 in its Table 5.
"""

from perceiver_jax.models.published.entry import Entry, array, deep

MODELS = {
  "starcraft": Entry(
    {
      "adapter": {"kind": "entities", "num_channels": 128},
      "encoder": deep(
        32,
        512,
        3,
        self_attend_widening_factor=4,
      ),
      "decoder": {"kind": "entities"},
    },
    array(512, 256),
    10_956_416,
    note="the published operations leave out the linear layers before and"
    " after, and the 140M parameters are those of the whole agent",
    has_input_mask=True,
  )
}
