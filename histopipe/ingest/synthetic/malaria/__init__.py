"""Synthetic malaria: red blood cells of thin films on black, like NIH's, with or without parasites."""
