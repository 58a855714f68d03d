"""What shows data and changes none: the audit and contact sheets."""
