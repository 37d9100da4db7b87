"""`optimizer init`: from a file of examples to a configuration."""
