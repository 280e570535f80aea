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


def classified(texts: Sequence[tuple[str, str, str, float]]) -> str:
  """Texts with what they were taken for; mistakes first, the surest leading."""
  if not texts:
    return ""
  ordered = sorted(texts, key=lambda row: (row[1] == row[2], -row[3]))
  rows = [
    (text, answer if answer == truth else f"✗ {answer}", truth, f"{share:.0%}")
    for text, truth, answer, share in ordered
  ]
  head = ("text", "answer", "truth", "probability")
  table = html.table(head, rows, numbers=(3,))
  return (
    '<h2>Sample texts</h2>\n<p class="quiet">Held-out texts and the model\'s'
    f" answers. Mistakes come first, the most confident leading.</p>\n{table}"
  )


def _run(truth: str, guess: str, hidden: bool) -> str:
  if not hidden:
    return html.text(truth)
  if guess == truth:
    return f"<ins>{html.text(guess)}</ins>"
  return f"<del>{html.text(guess)}</del> [{html.text(truth.strip())}]"
