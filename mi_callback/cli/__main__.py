"""`python -m mi_callback.cli` is `mi-audit`."""

from mi_callback.cli import main

if __name__ == "__main__":  # imported when the documentation is built
    main()
