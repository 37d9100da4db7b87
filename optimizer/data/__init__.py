"""From sources of rows to three disjoint splits."""
