"""The durable record of everything paid for, and the files of a run folder."""
