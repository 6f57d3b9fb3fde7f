"""Shares and their limits: of flags, of false flags, of copies."""
