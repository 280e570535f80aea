"""Data: random-access sources, decoders and Grain pipelines.

`sources` names what an example is; `images`, `video`, `audio`, `flow_files` and
`tokenizer` turn files into arrays, and `pipeline` turns a source into batches
that can be resumed exactly.
"""
