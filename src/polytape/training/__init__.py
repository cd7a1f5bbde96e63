"""Keras-native training: `fit` on several objectives."""
