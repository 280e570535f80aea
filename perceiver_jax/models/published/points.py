"""The point cloud classifiers of ModelNet40 (Perceiver v2, section 4.3)."""

from perceiver_jax.models.published.entry import Entry, array, encoder

_ADAPTER = {"kind": "points", "num_bands": 64, "max_resolution": 2240}

MODELS = {
  "modelnet40": Entry(
    {
      "num_classes": 40,
      "adapter": dict(_ADAPTER),
      # Sharing as on ImageNet, whose settings the paper refers to.
      "encoder": encoder(num_cross_attends=2, num_blocks=2),
      "decoder": {"kind": "average_and_project"},
    },
    array(2048, 3),  # The paper says "about 2,000" points.
    44_772_202,
    has_input_mask=True,
  ),
  "modelnet40_transformer": Entry(
    {
      "num_classes": 40,
      "adapter": dict(_ADAPTER),
      # The paper states no sizes: those of ImageNet's Transformer are chosen.
      "encoder": {
        "kind": "transformer",
        "num_channels": 512,
        "num_layers": 12,
        "num_heads": 8,
        "widening_factor": 4,
      },
      "decoder": {"kind": "average_and_project", "latents_are_inputs": True},
    },
    array(1936, 3),  # 44 x 44.
    38_047_784,
    has_input_mask=True,
  ),
}
