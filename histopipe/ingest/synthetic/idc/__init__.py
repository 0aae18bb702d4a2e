"""Synthetic IDC: whole mounts of breast tissue, cut into 50-px patches with or without tumour."""
