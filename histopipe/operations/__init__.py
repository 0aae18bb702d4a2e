"""Care of a checkout: its examination, its mending, its cleaning, and the servers beside it."""
