"""Scoring beside training: one process takes the samples of a validation after another, and gives their scores back.

It holds the fitted detector, with all that this keeps from one validation to the next. What goes to it and comes back
goes through pipes, and no file is written. It runs no script of the user's, which would train again.
"""
