"""Tradewind: eleven LLM system-design questions answered with running systems and measured evidence."""
