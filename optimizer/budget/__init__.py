"""What a study may spend, what of it is kept back, and when to stop searching."""
