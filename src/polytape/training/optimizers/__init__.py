"""Several Keras optimizers as one."""
