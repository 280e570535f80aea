"""The point cloud classifier of ModelNet40 (Perceiver v2, section 4.3)."""

from perceiver_jax.models.published.entry import Entry, array, encoder

MODELS = {
  "modelnet40": Entry(
    {
      "num_classes": 40,
      "adapter": {"kind": "points", "num_bands": 64, "max_resolution": 2240},
      # Sharing as on ImageNet, whose settings the paper refers to.
      "encoder": encoder(num_cross_attends=2, num_blocks=2),
      "decoder": {"kind": "average_and_project"},
    },
    array(2048, 3),  # The paper says "about 2,000" points.
    44_772_202,
  )
}
