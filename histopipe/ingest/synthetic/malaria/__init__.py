"""Red blood cells of thin films, cut out on black as NIH's are, with or without parasites."""
