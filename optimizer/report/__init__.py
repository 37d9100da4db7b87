"""The report of a study: one HTML file that needs nothing else, for people who decide and people who check.

`report_html` and `figures_of` take a `StudyView`, the prompts as text and, where they are at hand, the rows.
"""

from optimizer.report.page import Material, figures_of, report_html, shown_texts

__all__ = ["Material", "figures_of", "report_html", "shown_texts"]
