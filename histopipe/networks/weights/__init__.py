"""What networks start from: published weights, a file, one of our own registered models, or chance."""

from histopipe.networks.weights.record import Weights, read_weights, weights_digest
from histopipe.networks.weights.stage import fetch_weights

__all__ = ["Weights", "fetch_weights", "read_weights", "weights_digest"]
