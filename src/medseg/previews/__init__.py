"""The audit of the data, and contact sheets: they show data and change none."""
