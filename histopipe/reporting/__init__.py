"""The comparison of a data set's models, and the report."""
