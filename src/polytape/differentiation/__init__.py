"""Gradients of several losses: rows, connectivity, Gramians, directions; derivatives by tensors."""
