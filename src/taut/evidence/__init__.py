"""Evidence: what is known about log p(x), with its error."""

from taut.evidence.importance import importance, importance_blocks
from taut.evidence.results import Estimate, Evidence

__all__ = ["Estimate", "Evidence", "importance", "importance_blocks"]
