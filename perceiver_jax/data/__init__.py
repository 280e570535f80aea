"""Data: random-access sources, decoders and Grain pipelines.

`core` has the source protocol and the pipeline that turns a source into batches
whose order can be resumed exactly. `images`, `text`, `clips` and `flow` have
the sources of each modality, by name in a `SOURCES` dictionary, and the code
that turns files into arrays.
"""
