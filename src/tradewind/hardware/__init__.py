"""Which hardware for which model, load and budget: measured, compiled and modelled, never mixed in one column."""
