"""Tests of printing the logs of all processes of a run."""

import contextlib
import json
import threading

import pytest

from perceiver_jax.training.logs import process_log

TIME = "2026-01-02 03:04:05+00:00"


def write(folder, process, lines=(), **values):
  heartbeat = {
    "process": process, "num_processes": 2, "host": f"host-{process}",
    "pid": 100 + process, "step": 1200, "doing": "step", "time": TIME,
  } | values  # fmt: skip
  folder.mkdir(exist_ok=True)
  path = folder / f"process-{process}.json"
  partial = path.with_suffix(".partial")
  partial.write_text(json.dumps(heartbeat))
  partial.replace(path)
  path.with_suffix(".log").write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(process_log, "INTERVAL", 0.1)


@contextlib.contextmanager
def living(folder, process, **values):
  """Writes heartbeats until the end of a block."""
  ended = threading.Event()

  def go_on():
    step = 1200
    while not ended.wait(0.02):
      step += 1
      write(folder, process, **values, step=step)

  thread = threading.Thread(target=go_on)
  thread.start()
  yield
  ended.set()
  thread.join()


def test_every_process_is_printed(script, tmp_path):
  write(tmp_path / "logs", 1, ["a", "b", "c"], doing="ended")
  write(
    tmp_path / "logs", 0, ["\x1b[31mred"], step_seconds=0.25, doing="ended",
    data_wait_percent=12.0, host_gb=1.5,
  )  # fmt: skip
  done = script("logs", f"--workdir={tmp_path}", "--lines=2")
  assert done.status == 0, done.err
  assert done.out.splitlines() == [
    f"process 0 of 2, pid 100 on host-0: step 1,200, ended at {TIME},"
    " 0.25 s a step, 12% waiting for data, 1.5 GB",
    "  \N{REPLACEMENT CHARACTER}[31mred",
    f"process 1 of 2, pid 101 on host-1: step 1,200, ended at {TIME}",
    "  b",
    "  c",
  ]


# The clock of a host may be wrong by any amount.
@pytest.mark.parametrize("year", [1999, 2099])
def test_a_silent_process_is_named_whatever_its_clock(script, tmp_path, year):
  time = f"{year}{TIME[4:]}"
  write(tmp_path / "logs", 1, time=time)
  with living(tmp_path / "logs", 0):
    done = script("logs", f"--workdir={tmp_path}", "--lines=0")
  assert done.status == 1
  *_, second, waiting, silent = done.out.splitlines()
  assert second.endswith(f"step 1,200, in step at {time}")
  assert waiting == "waiting for heartbeats, 0 seconds at most"
  assert silent == "SILENT for 0 seconds: process 1 of 2, pid 101 on host-1"


def test_processes_that_are_alive_are_not_named(script, tmp_path):
  write(tmp_path / "logs", 1, doing="ended")
  write(tmp_path / "logs", 0, time="1999-01-01 00:00:00+00:00")
  with living(tmp_path / "logs", 0, time="1999-01-01 00:00:00+00:00"):
    done = script("logs", f"--workdir={tmp_path}", "--lines=0")
  assert done.status == 0, done
  assert "SILENT" not in done.out


def test_a_failed_process_is_not_waited_for(script, tmp_path):
  write(tmp_path / "logs", 0, doing="failed", num_processes=1)
  done = script("logs", f"--workdir={tmp_path}", "--lines=0")
  assert done.status == 1
  (line,) = done.out.splitlines()
  assert line.endswith(f"step 1,200, failed at {TIME}")


def test_processes_of_an_earlier_start_are_left_out(script, tmp_path):
  write(tmp_path / "logs", 0, num_processes=1, doing="ended")
  write(tmp_path / "logs", 1, time="2099-01-01 00:00:00+00:00")
  done = script("logs", f"--workdir={tmp_path}")
  assert done.out.startswith("process 0 of 1, ")
  assert len(done.out.splitlines()) == 1


def test_mistakes_are_told_in_one_line(refused, tmp_path):
  refused("logs", parts=["--workdir is missing"])
  refused("logs", f"--workdir={tmp_path}", parts=["has no heartbeats"])
