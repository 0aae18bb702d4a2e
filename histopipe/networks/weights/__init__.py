"""The weights that networks start from: published ones, a file, a model of our own registry, or random ones."""
