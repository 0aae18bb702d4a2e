"""The comparison of a data set's evaluated models, with intervals and tests by case."""
