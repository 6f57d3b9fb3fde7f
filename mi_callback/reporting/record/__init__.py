"""A record that stands: private files that are replaced whole, a log in which nothing can be changed unseen, decisions.

It knows files and entries, and nothing of what was found.
"""

from mi_callback.reporting.record.changing import change_record, clear_unfinished, opened_record
from mi_callback.reporting.record.lock import held
from mi_callback.reporting.record.log import Entry, append_entries, read_log
from mi_callback.reporting.record.reviews import Decision, Review, reviews_of
from mi_callback.reporting.record.verification import Verification, verify_record

__all__ = [
    "Decision",
    "Entry",
    "Review",
    "Verification",
    "append_entries",
    "change_record",
    "clear_unfinished",
    "held",
    "opened_record",
    "read_log",
    "reviews_of",
    "verify_record",
]
