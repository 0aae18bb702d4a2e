"""Set the evaluated architectures of a data set side by side, by case."""
