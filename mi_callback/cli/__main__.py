"""`python -m mi_callback.cli` is `mi-audit`."""

from mi_callback.cli import main

main()
