"""Evaluates: python -m experiments.evaluate --workdir=DIR --checkpoint=best.

Prints the metrics of a checkpoint on the held-out data and writes them to
evaluation-STEP.json in the workdir.
"""

import sys
from collections.abc import Sequence

from absl import flags

from experiments import launch


def define_flags() -> None:
  """Defines the flags of this program."""
  launch.define_flags(config_required=False)
  flags.DEFINE_string("checkpoint", "latest", "latest, best, or a step.")


def main(argv: Sequence[str]) -> int:
  """Evaluates one checkpoint."""
  launch.no_arguments(argv)
  launch.workdir()
  # Import JAX late to keep --help and flag errors fast.
  import jax

  from perceiver_jax.training import evaluation, restore, workdir
  from perceiver_jax.training.logs import metric_writers, results

  launch.initialize_distributed()
  config, task, folder = launch.saved_run()
  restored = restore.restore(config, task, folder, flags.FLAGS.checkpoint)
  found = evaluation.evaluate_all(
    evaluation.make_eval_step(restored.model, task, restored.mesh),
    restored.state,
    task.eval_datasets(
      global_batch=evaluation.batch_size(config, restored.mesh),
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    ),
    restored.mesh,
    show_progress=jax.process_index() == 0 and sys.stderr.isatty(),
  )
  found = task.finalize_metrics(found)
  if jax.process_index() == 0:
    scores = results.flat_scalars(found)
    print(f"step {restored.step:,} of {folder}")
    width = max(map(len, scores))
    for name, value in scores.items():
      print(f"  {name:<{width}}  {value:.4f}")
    path = folder / f"evaluation-{restored.step}.json"
    with workdir.writing(folder):
      metric_writers.write_json(
        path, {"step": restored.step, "metrics": scores}
      )
    print(f"written to {path}")
  return 0


if __name__ == "__main__":
  define_flags()
  launch.run(main)
