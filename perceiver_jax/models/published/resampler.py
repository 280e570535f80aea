"""Resamplers of vision-language models.

Flamingo's sizes are those of Flamingo-3B (arXiv 2204.14198); Idefics2's are
those of its released weights (arXiv 2405.02246).
"""

from perceiver_jax.models.published.entry import Entry, array

MODELS = {
  "flamingo_resampler": Entry(
    {
      "adapter": {"kind": "features", "num_frames": 8},
      "encoder": {
        "kind": "resampler",
        "num_latents": 64,
        "num_latent_channels": 1536,
        "num_layers": 6,
        "num_heads": 16,
        "num_kv_heads": 0,
        "head_channels": 128,
        "widening_factor": 4,
        "norm": "layer",
        "activation": "squared_relu",
        "projection": "none",
        "projection_channels": 0,
      },
      "decoder": {"kind": "latents"},
    },
    array(8, 64, 1536),
    188_912_640,
    "the paper says 194M; whether its linear layers have biases, and how many"
    " frames have embeddings, is not stated. The number of features is chosen",
    has_input_mask=True,
  ),
  "idefics2_resampler": Entry(
    {
      "adapter": {"kind": "features", "num_frames": 0},
      "encoder": {
        "kind": "resampler",
        "num_latents": 64,
        "num_latent_channels": 4096,
        "num_layers": 3,
        "num_heads": 16,
        "num_kv_heads": 4,
        "head_channels": 96,
        "widening_factor": 4,
        "norm": "rms",
        "activation": "swiglu",
        "projection": "swiglu",
        "projection_channels": 14_336,
      },
      "decoder": {"kind": "latents"},
    },
    array(1, 729, 1152),
    743_219_200,
    "with the projection of features to 4,096 channels (91.8M)",
    has_input_mask=True,
  ),
}
