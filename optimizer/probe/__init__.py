"""`optimizer check`: what can be known before the night begins."""
