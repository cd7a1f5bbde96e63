"""Methods that must see coordinates of the gradients, not only their inner products."""
