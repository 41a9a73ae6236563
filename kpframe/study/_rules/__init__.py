"""Learning rules compared on trained networks, and networks trained by them."""
