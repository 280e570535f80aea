"""Limits of what is read from files that others may have made.

A small file can describe a huge array. These limits are far above what the
papers and their data sets need, and keep reading any file within about 10
seconds and 2 GB. docs/reliability.md lists them.
"""

import os

# Bytes of a JSON file: the names of a million classes are fewer. Parsed, JSON
# takes up to 30 times its size.
MAX_JSON_BYTES = 2**24

# Bytes of the JSON file that lists the examples of a prepared split: AudioSet
# has two million clips.
MAX_INDEX_BYTES = 2**27

# Levels of nested JSON, which are visited recursively. Configs have up to six.
MAX_JSON_DEPTH = 64

# Characters of an error message. A longer one is shortened; the longest that we
# write list a few dozen names.
MAX_MESSAGE = 2_000

# Arrays in a file of weights. The released files have at most 830.
MAX_ARRAYS = 100_000

# Any size in the spec of a model. The largest that the papers use are the
# 50,176 inputs of ImageNet and 802,816 output points of Kinetics.
MAX_SIZE = 2**24

# Layers or blocks in a spec. The papers' deepest model has 48 self-attends, and
# a plain Transformer is trained with at most a few hundred layers.
MAX_DEPTH = 1_024

# Pixels of an image or of a frame: 8,192 x 8,192. ImageNet's largest image has
# 61 million and a frame of 8K video 33 million. In 16 bits and four channels
# these are 0.5 GB. OpenCV reads the variable when it is loaded and checks the
# size before it decodes, for every format.
PIXELS_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
MAX_PIXELS = int(os.environ.setdefault(PIXELS_VARIABLE, str(2**26)))

# Bytes of the values in an IDX file: MNIST's images are 47 million, and those
# of the largest set of EMNIST 548 million.
MAX_IDX_BYTES = 2**30

# Samples per second of an audio file: from the lowest rate of speech codecs to
# that of measurement devices. Resampling from 1 Hz would multiply a file's
# size by 48,000.
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 768_000

# Audio samples, over all channels, that are read or resampled at once: 46
# minutes of one channel at 48,000 Hz, 0.5 GB in float32.
MAX_SAMPLES = 2**27

# Bytes of a file of a mesh or of a point cloud: as text, about 4 million
# triangles or 5 million points.
MAX_OBJECT_BYTES = 2**27

# Bytes of a file that is uploaded to the page of experiments.demo, as many as
# those of a mesh.
MAX_UPLOAD_BYTES = MAX_OBJECT_BYTES

# Points of a cloud or vertices of a mesh, and triangles of a mesh. The corners
# of so many triangles take 0.3 GB.
MAX_POINTS = MAX_TRIANGLES = 2**22

# Bytes of the point clouds in the HDF5 files of a split, which are held in
# memory. Those of modelnet40_ply_hdf5_2048 have 0.24 GB.
MAX_CLOUDS_BYTES = 2**30
