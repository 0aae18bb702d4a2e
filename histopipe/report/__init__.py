"""A comparison as one web page that needs nothing but itself."""

from histopipe.report.answer import answer
from histopipe.report.page import write_page

__all__ = ["answer", "write_page"]
