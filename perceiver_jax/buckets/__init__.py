"""Files in buckets of object stores, for `perceiver_jax.files`."""
