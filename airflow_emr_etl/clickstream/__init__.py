"""Access logs before the cluster sees them: made up (generator) and cut into days (split)."""
