"""The report of an audit: written, reviewed, and its samples filtered."""
