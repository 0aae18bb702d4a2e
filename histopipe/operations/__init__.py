"""Maintenance of a checkout: checks and repairs (`doctor`), removal of leftovers (`gc`), and Prefect's server."""
