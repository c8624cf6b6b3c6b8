"""The report of an audit: one HTML file that says how good a model is, how loose its bound, why,
and what to change.

It holds all that it shows: no script, no file next to it, nothing from elsewhere. Every number in
it is one of the audit's.

An improvement and a study have a page of their own: ``staircase``.

Read ``render`` first; ``figures`` draws, ``text`` writes numbers.
"""

from taut.report.render import render, render_comparison

__all__ = ["render", "render_comparison"]
