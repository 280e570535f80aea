"""Data: random-access sources, decoders and Grain pipelines.

`source_base` says what a source is and `sources` names them; `image_sources`
and `photos` are those of pictures. `images`, `video`, `audio`, `flow_files` and
`tokenizer` turn files into arrays; `preprocessing` and `rand_augment` make of a
picture what a model sees; `pipeline` turns a source into batches that can be
resumed exactly.
"""
