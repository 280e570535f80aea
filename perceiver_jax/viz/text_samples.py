"""The report's parts about texts: hidden words, and what texts were taken for.

What they take is that of `viz.report.Report`.
"""

from collections.abc import Sequence

from perceiver_jax.viz import html


def fillings(texts: Sequence[Sequence[tuple[str, str, bool]]]) -> str:
  """Each text with the guesses in place of what was hidden."""
  if not texts:
    return ""
  body = "".join(
    f'<p class="filling">{"".join(_run(*run) for run in text)}</p>\n'
    for text in texts
  )
  return (
    '<h2>Hidden words</h2>\n<p class="quiet">What the model puts for the words'
    " it was not shown, each token by itself; where that is wrong, the truth"
    f" follows in brackets.</p>\n{body}"
  )


def classified(
  texts: Sequence[tuple[str, str, str, float | None]],
) -> str:
  """Texts with what they were taken for; mistakes first, the surest leading.

  Scores, which are numbers, are neither right nor wrong: the farthest lead.
  """
  if not texts:
    return ""
  if all(row[3] is None for row in texts):
    distance = lambda row: abs(float(row[1]) - float(row[2]))
    rows = [row[:3] for row in sorted(texts, key=distance, reverse=True)]
    head, first = ("text", "truth", "score"), "The farthest from the truth come"
  else:
    ordered = sorted(texts, key=lambda row: (row[1] == row[2], -row[3]))
    rows = [
      (text, truth, guess if guess == truth else f"✗ {guess}", f"{share:.0%}")
      for text, truth, guess, share in ordered
    ]
    head = ("text", "truth", "answer", "probability")
    first = "Mistakes, the most confident leading, come"
  table = html.table(head, rows, numbers=range(3, len(head)))
  return (
    '<h2>Sample texts</h2>\n<p class="quiet">Held-out texts and what the model'
    f" says of them. {first} first.</p>\n{table}"
  )


def _run(truth: str, guess: str, hidden: bool) -> str:
  if not hidden:
    return html.text(truth)
  if guess == truth:
    return f"<ins>{html.text(guess)}</ins>"
  return f"<del>{html.text(guess)}</del> [{html.text(truth.strip())}]"
