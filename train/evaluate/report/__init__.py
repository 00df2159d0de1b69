"""Reports a person reads: one page of HTML with nothing outside it, and its plots as files."""

from train.evaluate.report.comparison import write_comparison
from train.evaluate.report.single import write_report

__all__ = ["write_comparison", "write_report"]
