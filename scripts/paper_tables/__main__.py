r"""Renders every table of the papers, published beside ours.

  python -m scripts.paper_tables --runs=runs --out=tables.html

writes one self-contained page. Each table has the published numbers, ours from
the runs, evaluations (`experiments.evaluate --out`) and benchmarks
(`scripts.benchmark --published --json`) in the folders of --runs, which may be
given several times, parameters and operations that the library computes, and
the command of each row. --out=FILE.md writes Markdown; `docs/paper_tables.md`
is made that way, without runs.

A run counts for a row if its config is the row's variant, apart from leaves
that do not change what is learned (`recipes.FREE_LEAVES`) and the folders of
its data. An evaluation of weights counts if the weights are a released file or
those of such a run. All other runs, small ones for example, are in a table of
their own, with the leaves that differ.
"""

import sys
from collections.abc import Sequence

from absl import flags

from experiments import launch
from experiments.predictions import outputs
from perceiver_jax import files
from perceiver_jax.errors import UserError

_RUNS = flags.DEFINE_multi_string(
  "runs", [], "Folder of runs or of evaluations' JSON files; may be repeated."
)
_OUT = flags.DEFINE_string("out", "tables.html", "File to write: .html or .md.")


def main(argv: Sequence[str]) -> None:
  """Writes the page."""
  launch.no_arguments(argv)
  out = files.as_path(_OUT.value).expanduser()
  if out.suffix not in (".html", ".md"):
    raise UserError(f"--out={out} is no page; give a name in .html or .md")
  outputs.check_writable(out, "another --out")
  import jax
  import tqdm

  jax.config.update("jax_platforms", "cpu")
  from scripts.paper_tables import costs, page, runs

  results = runs.collect(
    [files.as_path(folder).expanduser() for folder in _RUNS.value]
  )
  progress = lambda items: tqdm.tqdm(
    items, "counting operations", disable=None, file=sys.stderr
  )
  content = page.content(results, costs.of_rows(progress), out.parent)
  files.write_text(out, page.render(content, out.suffix))
  print(content.coverage)
  print(f"written to {out}")


if __name__ == "__main__":
  launch.run(main)
