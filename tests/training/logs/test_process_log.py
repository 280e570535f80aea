"""Tests of the log and heartbeat of a process."""

import json
import os
import time

import pytest
from absl import logging

from perceiver_jax.errors import UserError
from perceiver_jax.training.logs import process_log
from perceiver_jax.training.logs.process_log import RUN_LOGGER, ProcessLog


def heartbeat(folder):
  return json.loads((folder / "logs" / "process-0.json").read_text())


def log(folder):
  return (folder / "logs" / "process-0.log").read_text()


def wait_for(condition):
  end = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.01)


def test_a_heartbeat_tells_what_the_process_does(tmp_path):
  with ProcessLog(tmp_path, interval=0.01) as process:
    wait_for((tmp_path / "logs" / "process-0.json").exists)
    assert heartbeat(tmp_path)["doing"] == "starting"
    process.step, process.doing = 7, lambda: "data"
    process.measured = {"step_seconds": 0.5}
    # The thread writes it even if this one waits for something.
    wait_for(lambda: heartbeat(tmp_path)["step"] == 7)
    written = heartbeat(tmp_path)
    assert (written["process"], written["num_processes"]) == (0, 1)
    assert (written["pid"], written["doing"]) == (os.getpid(), "data")
    assert written["step_seconds"] == 0.5
  (last,) = process_log.read_heartbeats(tmp_path)
  assert last["doing"] == "ended"


def test_the_log_has_lines_of_the_run_and_warnings(tmp_path):
  with ProcessLog(tmp_path) as process:
    RUN_LOGGER.info("step %d", 3)
    logging.warning("something is odd")
    process.flush()
    assert log(tmp_path).splitlines()[-2].endswith(" step 3")
    assert log(tmp_path).splitlines()[-1].endswith(" something is odd")
  RUN_LOGGER.info("after the end")
  with ProcessLog(tmp_path):
    pass
  lines = process_log.read_log(tmp_path, 0)
  texts = [line[20:] for line in lines]
  start = f"started: {process_log.describe(heartbeat(tmp_path))}"
  assert texts == [start, "step 3", "something is odd", start]


def test_the_log_forgets_its_beginning(tmp_path):
  with ProcessLog(tmp_path):
    for number in range(3000):
      RUN_LOGGER.info("%d %s", number, "x" * 100)
  assert 2**15 < len(log(tmp_path)) <= 2**16
  assert "\n" in log(tmp_path)
  assert "2999 xx" in process_log.read_log(tmp_path, 0)[-1]


@pytest.mark.parametrize(
  ("error", "traceback"), [(UserError("no"), False), (KeyError("no"), True)]
)
def test_errors_are_logged(tmp_path, error, traceback):
  with pytest.raises(type(error)), ProcessLog(tmp_path):
    raise error
  assert heartbeat(tmp_path)["doing"] == "failed"
  assert f"{type(error).__name__}: " in log(tmp_path)
  assert ("Traceback" in log(tmp_path)) == traceback


def test_a_folder_that_cannot_be_written_to_does_not_end_a_run(tmp_path):
  (tmp_path / "logs").write_text("in the way")
  with ProcessLog(tmp_path, interval=0.01) as process:
    RUN_LOGGER.info("hello")
    (tmp_path / "logs").unlink()
    process.flush()
  assert "hello" in log(tmp_path)


def test_a_disk_that_hangs_delays_the_end_by_seconds_only(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(process_log, "_PATIENCE", 0.1)
  monkeypatch.setattr(ProcessLog, "_write", lambda _: time.sleep(5))
  start = time.monotonic()
  with ProcessLog(tmp_path):
    pass
  assert time.monotonic() - start < 4


def test_folders_without_heartbeats_are_refused(tmp_path):
  with pytest.raises(UserError, match="no heartbeats in logs/"):
    process_log.read_heartbeats(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"process": "a"}'])
def test_damaged_heartbeats_are_refused(tmp_path, text):
  with ProcessLog(tmp_path):
    pass
  (tmp_path / "logs" / "process-1.json").write_text(text)
  with pytest.raises(UserError, match=r"process-1\.json is not a heartbeat"):
    process_log.read_heartbeats(tmp_path)
