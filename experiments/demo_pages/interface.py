"""Shows a page with Gradio.

Uploads are handed over as paths: Gradio's own decoders, which know no limits,
never see them. Results that are HTML are shown in frames that can't reach the
page around them.
"""

import functools
import html
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from absl import flags

from experiments.demo_pages.page import Input, Output, Page
from perceiver_jax.errors import UserError
from perceiver_jax.viz import attention_sections

_CSS = """
.heading {
  padding: 0 !important;
  margin-bottom: -.5rem;
}
.heading h1 {
  font-size: 1.5rem;
  margin: 0;
}
.heading h3 {
  font-size: .9375rem;
  margin: 0;
}
.heading p {
  margin: .25rem 0 0;
}
.field img {
  width: 100%;
  height: 100%;
  object-fit: contain;
}
#error p {
  margin: 0;
  padding: .75rem 1rem;
  border-radius: 6px;
  border: 1px solid #b3261e;
  overflow-wrap: anywhere;
}
.result {
  width: 100%;
  height: 34rem;
  border: 1px solid var(--border-color-primary);
  border-radius: 6px;
}
footer {
  display: none !important;
}
"""
# Of sections as they are in reports, whose header and margins are too large.
_FRAME_STYLE = """
<style>
header, h2:empty {
  display: none;
}
main {
  max-width: none;
  padding: .75rem;
}
h2 {
  margin: 1.5rem 0 .5rem;
}
.cards > :only-child {
  grid-column: 1 / -1;
  max-width: 24rem;
}
</style>
"""


def looks() -> dict[str, Any]:
  """Returns the theme and the style sheet, for `Blocks.launch`.

  The fonts are those of the system.
  """
  theme = gr.themes.Default(
    primary_hue="blue",
    neutral_hue="slate",
    radius_size="sm",
    font=("system-ui", "sans-serif"),
    font_mono=("ui-monospace", "monospace"),
  )
  return {"theme": theme, "css": _CSS}


def build(page: Page) -> gr.Blocks:
  """Builds the fields and the results of a page."""
  with gr.Blocks(
    title=page.title,
    analytics_enabled=False,
    # Seconds between clean-ups, and the age at which files are deleted.
    delete_cache=(600, 3600),
  ) as blocks:
    _heading("h1", page.title, page.description)
    error = gr.HTML(visible=False, elem_id="error", padding=False)
    with gr.Row():
      with gr.Column(scale=2, min_width=280):
        fields = _fields(page.inputs)
        button = gr.Button("Predict", variant="primary", elem_id="predict")
        beside_fields = gr.Column()
      narrow = gr.Column(scale=3, min_width=320)
    wide = gr.Column()
    results = []
    for output in page.outputs:
      with wide if output.is_wide else narrow:
        _heading("h3", output.label)
        results.append(_result(output))
    outputs = [error, *results]
    call = functools.partial(respond, page)
    texts = [field for field in fields if isinstance(field, gr.Textbox)]
    gr.on(
      [button.click, *(text.submit for text in texts)],
      call,
      fields,
      outputs,
      api_visibility="private",
    )
    if page.examples:
      with beside_fields:
        _examples(page, fields, outputs, call)
  blocks.queue(max_size=16, default_concurrency_limit=1)
  return blocks


def respond(page: Page, *values: Any) -> list[Any]:
  """Returns updates of the line for errors and of the results.

  Args:
    page: The page.
    *values: Values of its fields; options may be left out.
  """
  # Gradio gives None for a field that was never edited.
  given = [
    value or "" if field.kind == "text" else value
    for field, value in zip(page.inputs, values, strict=False)
  ]
  try:
    shown = page.predict(*given)
  except UserError as error:
    return _failure(page, _without_folders(str(error), page.inputs, values))
  except Exception:
    traceback.print_exc()
    return _failure(page, "this failed; the program's output says why")
  outputs = zip(page.outputs, shown, strict=True)
  return [gr.update(visible=False), *(_value(*each) for each in outputs)]


def _failure(page: Page, message: str) -> list[Any]:
  """Shows one line in place of results."""
  line = html.escape(" ".join(message.split()))
  shown = gr.update(value=f'<p role="alert">{line}</p>', visible=True)
  return [shown, *(None for _ in page.outputs)]


def _without_folders(
  message: str, inputs: Sequence[Input], values: Sequence[Any]
) -> str:
  """Removes from a message the folders in which uploads are stored."""
  for given, value in zip(inputs, values, strict=False):
    if given.kind in ("image", "file") and value:
      message = message.replace(f"{Path(value).parent}/", "")
  return message


def _heading(tag: str, text: str, description: str = "") -> None:
  parts = [f"<{tag}>{html.escape(text)}</{tag}>"]
  if description:
    parts.append(f"<p>{html.escape(description)}</p>")
  gr.HTML("".join(parts), elem_classes="heading", padding=False)


def _examples(
  page: Page,
  fields: Sequence[gr.components.Component],
  outputs: Sequence[Any],
  call: Callable[..., list[Any]],
) -> None:
  """Shows examples, which are predicted when they are clicked."""
  required = [
    field
    for field, given in zip(fields, page.inputs, strict=True)
    if not given.is_option
  ]
  gr.Examples(
    [list(row) for row in page.examples],
    required,
    outputs,
    call,
    run_on_click=True,
    cache_examples=False,
    preload=False,
    api_visibility="private",
  )
  for field in required:
    # Gradio shows its copies of the examples' files again, so they stay.
    field.keep_in_cache |= field.temp_files


def _fields(inputs: Sequence[Input]) -> list[gr.components.Component]:
  """Makes the fields, those of options folded below the others."""
  fields = {
    given.label: _field(given) for given in inputs if not given.is_option
  }
  options = [given for given in inputs if given.is_option]
  if options:
    with gr.Accordion("Options", open=False):
      fields |= {g.label: _field(g) for g in options}
  return [fields[g.label] for g in inputs]


def _field(given: Input) -> gr.components.Component:
  if given.kind == "image":
    field = gr.Image(
      label=given.label,
      type="filepath",
      sources=["upload", "clipboard"],
      height=240,
      buttons=[],
      elem_classes="field",
    )
    # Gradio would open the file with PIL.
    field.preprocess = lambda upload: upload and upload.path
    return field
  if given.kind == "file":
    suffixes = list(given.suffixes)
    return gr.File(label=given.label, file_types=suffixes, type="filepath")
  if given.kind == "choice":
    choices = list(given.choices)
    return gr.Dropdown(choices, value=choices[0], label=given.label)
  return gr.Textbox(label=given.label, info=given.hint or None)


def _result(output: Output) -> gr.components.Component:
  if output.kind == "classes":
    return gr.Label(show_label=False, num_top_classes=flags.FLAGS.top)
  if output.kind == "image":
    return gr.Image(
      show_label=False,
      interactive=False,
      format="png",
      buttons=[],
    )
  if output.kind == "text":
    return gr.Textbox(show_label=False, interactive=False)
  return gr.HTML('<div class="result"></div>', padding=False)


def _value(output: Output, value: Any) -> Any:
  """Converts a part of the result to a value of its component."""
  if output.kind != "sections" or value is None:
    return value
  # A plain string, since methods of Markup escape what they are given.
  page = str(attention_sections.page("", value)) + _FRAME_STYLE
  label = html.escape(output.label)
  return (
    f'<iframe class="result" title="{label}" sandbox="allow-scripts"'
    f' srcdoc="{html.escape(page)}"></iframe>'
  )
