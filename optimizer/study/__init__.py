"""One study from its opening to its end: what it stands on, and the verbs of the loop in `optimizer.run`."""
