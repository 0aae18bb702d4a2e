"""Networks: architectures, the weights they start from, and their predictions."""
