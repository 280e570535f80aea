import pytest

from experiments import flag_errors

CONFIGS = {
  "a name": (
    "def get_config():\n  return undefined",
    "NameError: name 'undefined' is not defined",
    2,
  ),
  "a value": (
    "def get_config():\n  x = 1\n  return int('x')",
    "ValueError: invalid literal for int() with base 10: 'x'",
    3,
  ),
  "a type": (
    "def get_config():\n  return 1 + 'x'",
    "TypeError: unsupported",
    2,
  ),
  "syntax": ("def get_config():\n  retrn 1", "SyntaxError: invalid syntax", 2),
  "an import": ("import nothing_like_it", "ModuleNotFoundError: No module", 1),
  "a file": (
    "def get_config():\n  return open('/dev/null/x')",
    "NotADirectoryError",
    2,
  ),
  "no function": ("config = 1", "AttributeError: ", 1),
  "no argument": (
    "def get_config():\n  return 1",
    "TypeError: get_config()",
    1,
  ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_the_error_of_a_config_file_is_shown_with_its_line(
  refuses, tmp_path, case
):
  code, message, line = CONFIGS[case]
  file = tmp_path / "mine.py"
  file.write_text(code)
  flag = f"--config={file}" + (":variant" if case == "no argument" else "")
  parts = [f"{flag} can't be loaded: ", message]
  if case not in ("no function", "no argument"):
    parts += [f"mine.py, line {line})"]
  refuses("train", "--workdir=x", flag, parts=parts)


def test_leaves_must_come_after_the_file(refuses, smoke_flag):
  parts = ["--config.seed=3", "before"]
  refuses("train", "--workdir=x", "--config.seed=3", smoke_flag, parts=parts)


@pytest.mark.parametrize(
  ("leaf", "parts"),
  [
    ("optimizer=3", ["--config.optimizer=3"]),
    ("log.tensorboard=maybe", ["--config.log.tensorboard=maybe"]),
    (
      "data.source_args.x=3",
      ["'x' in config.data.source_args", "it has digit_pairs"],
    ),
    ("published.x=3", ["'x' in config.published", "nothing"]),
    ("model.encoder.x.y=3", ["'x' in config.model.encoder"]),
    ("zzz=3", ["--config.zzz: no 'zzz' in config; it has batch_size"]),
  ],
)
def test_an_unknown_leaf_or_invalid_value_is_named(
  refuses, smoke_flag, leaf, parts
):
  refuses("train", "--workdir=x", smoke_flag, f"--config.{leaf}", parts=parts)


@pytest.mark.parametrize(
  ("argv", "expected"),
  [
    (["x"], None),
    (["x", "--config.seed=3"], None),
    (["x", "--config=a.py"], "a.py"),
    (["x", "-config=a.py:b"], "a.py:b"),
    (["x", "--config", "a.py", "--config.seed=3"], "a.py"),
    (["x", "--config"], ""),
  ],
)
def test_config_file_finds_the_file_on_the_command_line(argv, expected):
  assert flag_errors.config_file(argv) == expected
