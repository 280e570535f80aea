"""Tests of printing the logs of all processes of a run."""

import datetime
import json

import pytest


def write(folder, process, seconds_ago, lines=(), **values):
  now = datetime.datetime.now(datetime.UTC)
  heartbeat = {
    "process": process, "num_processes": 2, "host": f"host-{process}",
    "pid": 100 + process, "step": 1200, "doing": "step",
    "time": (now - datetime.timedelta(seconds=seconds_ago)).isoformat(),
  } | values  # fmt: skip
  folder.mkdir(exist_ok=True)
  path = folder / f"process-{process}.json"
  path.write_text(json.dumps(heartbeat))
  path.with_suffix(".log").write_text("".join(f"{line}\n" for line in lines))


def test_every_process_is_printed(script, tmp_path):
  write(tmp_path / "logs", 1, 4, ["a", "b", "c"], doing="data")
  write(
    tmp_path / "logs", 0, 3, ["\x1b[31mred"], step_seconds=0.25,
    data_wait_percent=12.0, host_gb=1.5,
  )  # fmt: skip
  done = script("logs", f"--workdir={tmp_path}", "--lines=2")
  assert done.status == 0, done.err
  assert done.out.splitlines() == [
    "process 0 of 2, pid 100 on host-0: step 1,200, in step, 3s ago,"
    " 0.25 s a step, 12% waiting for data, 1.5 GB",
    "  \N{REPLACEMENT CHARACTER}[31mred",
    "process 1 of 2, pid 101 on host-1: step 1,200, in data, 4s ago",
    "  b",
    "  c",
  ]


@pytest.mark.parametrize(
  ("doing", "text", "status"),
  [
    ("evaluate", "SILENT for 5m00s, last in evaluate", 1),
    ("ended", "ended 5m00s ago", 0),
    ("failed", "failed 5m00s ago", 1),
  ],
)
def test_processes_that_are_lost_are_named(
  script, tmp_path, doing, text, status
):
  write(tmp_path / "logs", 0, 300, ["a"], doing=doing)
  done = script("logs", f"--workdir={tmp_path}", "--lines=0")
  assert done.status == status
  (line,) = done.out.splitlines()
  assert line.endswith(f"step 1,200, {text}")


def test_processes_of_an_earlier_start_are_left_out(script, tmp_path):
  write(tmp_path / "logs", 0, 300, num_processes=1)
  write(tmp_path / "logs", 1, 400)
  done = script("logs", f"--workdir={tmp_path}")
  assert done.out.startswith("process 0 of 1, ")
  assert len(done.out.splitlines()) == 1


def test_mistakes_are_told_in_one_line(refused, tmp_path):
  refused("logs", parts=["--workdir is missing"])
  refused("logs", f"--workdir={tmp_path}", parts=["has no heartbeats"])
