"""Data: random-access sources, image decoding and Grain pipelines.

`sources` names what an example is, `images` turns files into arrays, and
`pipeline` turns a source into batches that can be resumed exactly.
"""
