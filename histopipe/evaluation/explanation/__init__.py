"""Where in a patch a network sees its reasons: maps, a check that they mean something, and a gallery to look at."""
