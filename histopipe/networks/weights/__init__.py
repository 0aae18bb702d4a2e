"""What networks start from: published weights, a file, one of our own registered models, or chance."""
