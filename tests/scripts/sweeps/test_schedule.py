"""Several runs at a time, and several processes, with stand-ins for runs."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import tiny_runs

from perceiver_jax.errors import UserError
from scripts.sweeps import devices, points, runs, schedule

# Logs its name and cores, waits for a file, and ends with the status of its
# name in `statuses`.
_RUN = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
if "importing" not in sys.argv:
  signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
with open(folder.parent / "started", "a") as file:
  file.write(f"{folder.name} {len(os.sched_getaffinity(0))}\\n")
while not (folder.parent / "go").exists():
  time.sleep(0.02)
statuses = json.loads((folder.parent / "statuses").read_text())
status = statuses.get(folder.name, 0)
if not status:
  folder.mkdir()
  (folder / "results.json").write_text('{"metrics": {}}')
sys.exit(status)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
  (tmp_path / "statuses").write_text("{}")
  words = lambda folder, flags: [
    sys.executable, "-c", _RUN, str(folder), *flags,
  ]  # fmt: skip
  monkeypatch.setattr(runs, "command", words)
  monkeypatch.setattr(schedule, "_POLL", 0.02)
  return tmp_path


def make(folder, count=4, parallel=2, flags=(), **functions):
  pending = [points.Run(f"r{n}", {}, flags) for n in range(count)]
  return schedule.Schedule(folder, pending, parallel, count, **functions)


def started(folder):
  path = folder / "started"
  return path.read_text().splitlines() if path.exists() else []


def wait_for(condition):
  end = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.02)


def test_runs_share_cores_and_a_failure_stops_no_other(folder, capsys):
  (folder / "statuses").write_text('{"r1": 3}')
  (folder / "go").touch()
  plan = make(folder)
  plan.run()
  assert plan.statuses == {"r0": 0, "r1": 3, "r2": 0, "r3": 0}
  cores = len(os.sched_getaffinity(0))
  assert all(line.split()[1] == str(cores // 2 or cores)
             for line in started(folder))  # fmt: skip
  out = capsys.readouterr().out
  assert f"[2/4] r1: failed with status 3, see {folder / 'r1.log'}" in out


def test_as_many_run_at_a_time_as_asked_for(folder):
  plan = make(folder)
  thread = threading.Thread(
    target=lambda: (wait_for(lambda: len(started(folder)) == 2),
                    time.sleep(0.3), seen.append(len(started(folder))),
                    (folder / "go").touch()),
  )  # fmt: skip
  seen = []
  thread.start()
  plan.run()
  thread.join()
  assert seen == [2]
  assert len(started(folder)) == 4


def test_another_process_joins_a_sweep(folder, capsys):
  """The first run is claimed elsewhere, and then ends there."""
  claim = runs.claim(folder / "r0")
  failing = runs.claim(folder / "r1")
  (folder / "go").touch()

  def end():
    wait_for(lambda: len(started(folder)) == 2)
    (folder / "r0").mkdir()
    (folder / "r0" / "results.json").write_text('{"metrics": {}}')
    claim.release(0)
    failing.release(4)

  thread = threading.Thread(target=end)
  thread.start()
  plan = make(folder, parallel=1)
  plan.run()
  thread.join()
  assert [line.split()[0] for line in started(folder)] == ["r2", "r3"]
  assert plan.statuses == {"r0": 0, "r1": 4, "r2": 0, "r3": 0}
  assert "r0: trained by another process" in capsys.readouterr().out


def test_a_run_of_a_killed_process_is_taken_over_when_it_has_ended(folder):
  claim = runs.claim(folder / "r0")
  process = runs.start(folder / "r0", (), claim, {}, subprocess.DEVNULL)
  claim._file.close()  # As if this process were killed.
  assert runs.claim(folder / "r0") is None
  process.kill()
  process.wait()
  (folder / "go").touch()
  plan = make(folder, count=1, parallel=1)
  plan.run()
  assert plan.statuses == {"r0": 0}


# A run that still imports is killed by the signal.
@pytest.mark.parametrize("flags", [(), ("importing",)])
def test_a_signal_stops_all_runs_after_saving(folder, flags):
  plan = make(folder, flags=flags)

  def stop():
    wait_for(lambda: len(started(folder)) == 2)
    os.kill(os.getpid(), signal.SIGTERM)

  thread = threading.Thread(target=stop)
  thread.start()
  plan.run()
  thread.join()
  assert plan.stopped == 75
  assert plan.statuses == {"r0": 75, "r1": 75}
  (folder / "go").touch()
  plan = make(folder)
  plan.run()
  assert not plan.stopped
  assert plan.statuses == {f"r{n}": 0 for n in range(4)}


@pytest.mark.parametrize("name", ["more", "ended"])
def test_an_error_stops_the_runs_that_train(folder, name):
  (folder / "r1").mkdir()
  (folder / "r1" / "results.json").write_text('{"metrics": {}}')

  def fail(*_):
    wait_for(lambda: started(folder))
    raise OSError("the disk is full")

  plan = make(folder, count=2, **{name: fail})
  with pytest.raises(OSError, match="the disk is full"):
    plan.run()
  (active,) = plan._active
  assert active.process.returncode == 75
  for run in ("r0", "r1"):
    assert runs.claim(folder / run).status == 0


def test_gpus_are_shared_out(monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,3,5")
  environments = [share.environment() for share in devices.shares(2)]
  assert environments == [
    {"CUDA_VISIBLE_DEVICES": "0,3"}, {"CUDA_VISIBLE_DEVICES": "2,5"},
  ]  # fmt: skip
  assert devices.shares(1)[0].environment() == {}
  with pytest.raises(UserError, match="only 4 GPUs"):
    devices.shares(5)


CONFIG = """
from configs import digits

def get_config(variant=""):
  return digits.get_config(variant)

def search_rates(trial):
  rate = trial.suggest_float("rate", 1e-4, 1e-2, log=True)
  return {"optimizer.learning_rate": rate}

def search_shapes(trial):
  return search_rates(trial) | {"data.image_shape": [8, 8, trial.number]}

def search_broken(trial):
  return {"optimizer.learning_rate": trial.suggest_float("rate")}
"""


@pytest.fixture
def search(script, tmp_path, monkeypatch):
  """Returns a function that searches, with runs that have a best rate."""
  config, out = tmp_path / "searches.py", tmp_path / "out"
  config.write_text(CONFIG)
  monkeypatch.setattr(schedule, "_POLL", 0.0)
  commands, statuses = [], {}

  class Process:
    def __init__(self, command, **_):
      flags = dict(f.lstrip("-").split("=", 1) for f in command if "=" in f)
      rate = float(flags["config.optimizer.learning_rate"])
      folder = runs.Path(flags["workdir"])
      commands.append((folder.name, rate))
      self._status = statuses.get(len(commands), 0)
      if not self._status:
        folder.mkdir(parents=True)
        text = f'{{"metrics": {{"eval/accuracy": {1 - abs(rate - 2e-3)}}}}}'
        (folder / "results.json").write_text(text)

    def poll(self):
      return self._status

  monkeypatch.setattr(subprocess, "Popen", Process)

  def search(*flags):
    return script(
      "sweep", f"--config={config}:smoke", "--sweep=rates", "--search=tpe",
      f"--out={out}", *flags,
    )  # fmt: skip

  return search, commands, statuses, out


def test_optuna_proposes_points_and_goes_on_where_it_stopped(search):
  search, commands, statuses, out = search
  statuses[2], statuses[4] = 1, 75
  assert search("--trials=6").status == 75
  assert [name for name, _ in commands] == [f"trial={n}" for n in range(4)]
  done = search("--trials=6")
  assert done.status == 1
  assert "failed: trial=1" in done.out
  # The stopped trial goes on with its point, and no other is repeated.
  assert commands[4] == commands[3]
  names = [name for name, _ in commands]
  assert names == [f"trial={n}" for n in (0, 1, 2, 3, 3, 4, 5)]
  assert len({rate for _, rate in commands}) == 6
  rows = (out / "sweep.csv").read_text().splitlines()
  assert rows[0].startswith("run,learning_rate,status")
  assert [row.split(",")[2] for row in rows[1:]] == (
    ["done", "failed (1)"] + ["done"] * 4
  )
  assert "data:image/svg+xml" in (out / "sweep.html").read_text()
  search("--trials=8")
  assert len(commands) == 9


def test_a_search_may_propose_lists(search):
  search, commands, _, out = search
  assert search("--sweep=shapes", "--trials=2").status == 0
  assert len(commands) == 2
  assert ",8x8x1,done," in (out / "sweep.csv").read_text()
  assert (out / "sweep.html").is_file()


def test_a_search_improves_on_its_first_points(search):
  search, commands, _, _ = search
  assert search("--trials=30").status == 0
  errors = [abs(rate - 2e-3) for _, rate in commands]
  assert min(errors) == min(errors[10:])
  assert sum(errors[-10:]) < sum(errors[:10])


@pytest.mark.parametrize(
  ("flags", "parts"),
  [
    (("--sweep=rate",), ["did you mean 'rates'?", "search_rate(trial)"]),
    (("--sweep=rates,broken",), ["name one search_NAME()"]),
    (("--sweep=broken",), ["search_broken() of", "TypeError"]),
    (("--search=grid",), ["tpe|random"]),
    (("--trials=0",), ["trials"]),
  ],
)
def test_mistakes_in_searches_are_told(search, flags, parts):
  search, commands, _, _ = search
  done = search(*flags)
  assert done.status == 2
  assert all(part in done.err for part in parts), done.err
  assert len(done.err.splitlines()) == 1
  assert not commands


def test_another_search_is_refused_in_the_same_folder(search):
  search, commands, _, _ = search
  assert search("--trials=1").status == 0
  done = search("--trials=2", "--", "--config.seed=3")
  assert done.status == 2
  assert "another --out" in done.err
  assert len(commands) == 1


@pytest.mark.slow  # Two trainings at a time, twice.
def test_real_runs_train_at_the_same_time(tmp_path):
  (tmp_path / "mine.py").write_text(
    CONFIG
    + "\ndef sweep_seeds():\n  yield from ({'seed': n} for n in (1, 2))\n"
  )
  command = [
    sys.executable, "-m", "scripts.sweep", f"--config={tmp_path}/mine.py:smoke",
    "--sweep=seeds", f"--out={tmp_path / 'out'}", "--parallel=2", "--",
    "--config.num_steps=2",
  ]  # fmt: skip
  starts = [
    subprocess.Popen(command, cwd=tiny_runs.ROOT, stdout=subprocess.PIPE)
    for _ in range(2)
  ]
  outputs = [start.communicate()[0].decode() for start in starts]
  assert [start.returncode for start in starts] == [0, 0], outputs
  trained = sum(out.count("-m experiments.train") for out in outputs)
  assert trained == 2
