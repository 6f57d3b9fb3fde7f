"""Who is shown: one normal form of ids, and what in a path names a person."""
