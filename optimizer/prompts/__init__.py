"""What a predictor asks, how that becomes messages, and how replies are read."""
