"""What may be concluded. Numbers in, numbers out."""

from mi_callback.statistics.null import subjects_needed
from mi_callback.statistics.rates.false_flags import alarm
from mi_callback.statistics.rates.planning import plan

__all__ = ["alarm", "plan", "subjects_needed"]
