"""A model in use over HTTP: an API and a page, `histopipe serve`."""
