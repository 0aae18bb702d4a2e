"""`python -m histopipe`."""

from histopipe.cli import main

main()
