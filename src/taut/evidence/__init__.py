"""Evidence: what is known about log p(x), with its error."""

from taut.evidence.importance import importance, importance_blocks
from taut.evidence.results import Estimate, Evidence
from taut.evidence.rows import RowEvidence, log_evidence, settle

__all__ = [
    "Estimate",
    "Evidence",
    "RowEvidence",
    "importance",
    "importance_blocks",
    "log_evidence",
    "settle",
]
