"""Any number of processes on one study."""
