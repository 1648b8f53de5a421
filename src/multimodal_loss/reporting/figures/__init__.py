"""Pictures, as matplotlib figures without pyplot's global state. Nothing here knows a dataset or a method by name."""
