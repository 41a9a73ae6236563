"""A study on several ranks: rank 0 does all that is not a product with an operator, all ranks share those."""
