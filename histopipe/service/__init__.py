"""The HTTP service of `histopipe serve`: a REST API and a web page that predict with a model."""
