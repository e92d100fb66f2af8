"""Who gets in, and what an enemy can do."""
