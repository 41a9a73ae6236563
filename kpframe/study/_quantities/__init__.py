"""What the core records of a network: registered quantities, one family a file."""
