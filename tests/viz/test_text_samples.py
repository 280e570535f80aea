"""The report's parts about texts."""

from perceiver_jax.viz import text_samples


def _places(page, *parts):
  places = [page.index(part) for part in parts]
  assert places == sorted(places)


def test_mistakes_come_first_and_the_surest_lead():
  page = text_samples.classified(
    [
      ("right <one>", "good", "good", 0.9),
      ("doubtful", "good", "bad", 0.6),
      ("sure", "bad", "good", 0.99),
    ]
  )
  _places(
    page, "sure", "✗ good", "99%", "doubtful", "✗ bad", "right &lt;one&gt;"
  )
  assert page.count("✗") == 2


def test_scores_are_not_wrong_and_the_farthest_lead():
  page = text_samples.classified(
    [("near", "2.500", "2.400", None), ("far", "0.000", "4.000", None)]
  )
  _places(page, "far", "0.000", "4.000", "near")
  assert "✗" not in page
  assert "%" not in page


def test_nothing_is_shown_of_no_texts():
  assert text_samples.classified([]) == text_samples.fillings([]) == ""
