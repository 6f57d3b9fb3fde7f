"""p-values beyond the null, extrapolated by a generalized-Pareto tail: for ranking alone."""
