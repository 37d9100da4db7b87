"""What may leave this machine, what in a text points to a person, and which words are secret."""
