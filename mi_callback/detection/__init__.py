"""Where retrieval, registration and statistics meet: matching, nulls, leaks."""
