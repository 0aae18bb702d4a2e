"""A comparison as one web page that needs nothing but itself."""

from histopipe.reporting.report.answer import answer
from histopipe.reporting.report.page import write_page

__all__ = ["answer", "write_page"]
