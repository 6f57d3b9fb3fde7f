"""What may be concluded. Numbers in, numbers out."""
