"""The entity encoders of AlphaStar (Perceiver IO v3, app. B).

`starcraft_transformer` is AlphaStar's own, with pre-norm blocks as everywhere
here: its description does not mention normalization. `starcraft` is Perceiver
IO's. The papers do not state the latents' 512 channels and the MLPs' widening
of 4; they are chosen because they fit the published 0.93B operations (with 32
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
  ),
  "starcraft_transformer": Entry(
    {
      "adapter": {"kind": "entities", "num_channels": 256},
      "encoder": {
        "kind": "transformer",
        "num_layers": 3,
        "num_heads": 2,
        "widening_factor": 4,
      },
      "decoder": {"kind": "transformer_entities"},
    },
    array(512, 256),
    2_567_168,
    note="the published operations are rounded and may leave out a linear layer"
    " around the Transformer, and the 144M parameters are those of the whole"
    " agent",
    has_input_mask=True,
  ),
}
