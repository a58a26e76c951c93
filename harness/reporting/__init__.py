"""What people and programs read about a run: progress, table, results.jsonl. Subscribers only."""
