"""What must be true: the model of all transactions, the truth at every LSN, and what isolation levels promise."""
