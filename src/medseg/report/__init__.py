"""The report of a run: one page that opens without a network, and its summary as Markdown."""
