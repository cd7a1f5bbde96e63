"""What is trained: objectives, the losses behind them, their labels, values and metrics."""
