"""Serves a page to try a model: python -m experiments.demo --workdir=RUN.

The page is at http://127.0.0.1:7860 and is for what the model is: images
and their classes, texts with gaps, two frames and their flow, clips, point
clouds, or observations of StarCraft II. The model is that of --weights or
--workdir, as in `experiments.predict`, whose flags it has. It needs Gradio:
pip install -e '.[demo]'.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import launch, predict, processes
from experiments.predictions import models


def define_flags() -> None:
  """Defines the flags of `experiments.predict`, and those of the server."""
  predict.define_flags()
  flags.DEFINE_string(
    "host",
    "127.0.0.1",
    "Address or name to listen at. At any other than the default, whoever"
    " reaches it can use the page.",
  )
  flags.DEFINE_integer(
    "port", 7860, "Port to listen at.", lower_bound=1, upper_bound=65535
  )


def main(argv: Sequence[str]) -> None:
  """Makes the page of the model, and serves it until Ctrl-C."""
  launch.no_arguments(argv)
  models.check_flags()
  # Imported here because they import JAX, which is slow.
  from experiments.demo_pages import page, server

  with tempfile.TemporaryDirectory(prefix="perceiver-demo-") as name:
    folder = Path(name)
    examples, uploads = folder / "examples", folder / "uploads"
    examples.mkdir()
    uploads.mkdir()
    made = page.make(examples)
    server.serve(made, flags.FLAGS.host, flags.FLAGS.port, uploads)
  # A prediction may still run in a thread, which Python's own end would abort.
  processes.exit_at_once(0)


if __name__ == "__main__":
  define_flags()
  launch.run(main)
