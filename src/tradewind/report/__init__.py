"""What was measured, side by side: summary, comparisons, table, plots, the gate for the champion, the model card.

It reads result files and writes files; it measures nothing.
"""
