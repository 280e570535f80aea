"""Renders the files of the launchers from their templates."""

import json
import shlex
from pathlib import Path
from typing import Any

import jinja2

from scripts.launch import job as job_lib

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
  """Renders a file.

  Args:
    template: Name of the template, without ".j2". In it the filter `quote`
      makes a word of a shell from a string, `words` several from a list, and
      `yaml` a value of YAML, of which JSON is a part.
    **values: Values of the template.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # Shell and YAML are quoted by the filters.
  )
  environment.filters |= {
    "quote": lambda value: shlex.quote(str(value)),
    "words": shlex.join,
    "yaml": lambda value: json.dumps(value, ensure_ascii=False),
  }
  return environment.get_template(f"{template}.j2").render(
    resume=job_lib.RESUME, max_restarts=job_lib.MAX_RESTARTS, **values
  )
