"""What scores can and cannot prove: statistics, verdict, rules, and what a study teaches."""
