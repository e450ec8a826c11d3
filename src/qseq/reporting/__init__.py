"""Pictures of runs: one self-contained HTML page, and summaries of data sets in numbers."""

from qseq.reporting.report import write_report
from qseq.reporting.summary import DataSummary, summarise

__all__ = ["DataSummary", "summarise", "write_report"]
