"""What a machine like the one that is measured on costs: one assumption for all that is told in money."""

PRICE = 0.0864
"""USD an hour."""
CORES = 2
"""That it is the price of; machines of one family cost in proportion."""
PRICE_OF = (
    "assumption: Amazon EC2 m6a.large (2 vCPU, 8 GiB), Linux, on demand, us-east-1; list price in USD an hour as it was "
    "known at the end of 2025, not looked up again"
)
