"""Trains: python -m experiments.train --config=configs/digits.py --workdir=DIR.

Run the same command again to resume a run that stopped for any reason.
"""

from collections.abc import Sequence

from absl import flags

from experiments import launch


def define_flags() -> None:
  """Defines the flags of this program."""
  launch.define_flags(config_required=True)
  flags.DEFINE_integer(
    "num_devices", 0, "Devices to use; 0: all there are.", lower_bound=0
  )


def main(argv: Sequence[str]) -> int:
  """Trains a model and prints the location of the results."""
  launch.no_arguments(argv)
  config = launch.config()
  folder = launch.workdir(takes_checkpoints=True)
  # Import JAX late to keep --help and flag errors fast.
  from configs import base
  from perceiver_jax.tasks import registry as tasks
  from perceiver_jax.training import config_checks, interrupts, loop

  launch.initialize_distributed()
  launch.enable_compilation_cache(folder)
  config_checks.check_complete(config, base.run())
  config = tasks.complete_config(config)
  task = tasks.make_task(config)
  outcome = loop.Trainer(config, task, folder, flags.FLAGS.num_devices).run()
  if outcome.stopped:
    return interrupts.EXIT_CODES[outcome.stopped]
  if outcome.results:
    print()
    name = task.primary_metric
    print(f"{name}: {outcome.results['metrics'][name]:.4f}")
    print(f"results: {folder / 'results.json'}")
    print(f"report:  {folder / 'report.html'}")
  return 0


if __name__ == "__main__":
  define_flags()
  launch.run(main)
