"""The report: a self-contained HTML page on the comparison of a data set."""
