"""The report of an audit.

One HTML file that says how good a model is, how loose its bound, why, and what to change.
"""

from taut.report.render import render

__all__ = ["render"]
