"""What the search found, kept: one entry, the files of entries, and the ladder from a problem to a plan."""
