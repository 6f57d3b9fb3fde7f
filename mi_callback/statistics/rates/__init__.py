"""Shares and their limits: of a binomial, of false flags, of copies."""
