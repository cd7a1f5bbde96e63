"""Why a gradient is missing, zero or not finite: from the operations of a forward pass to words."""
