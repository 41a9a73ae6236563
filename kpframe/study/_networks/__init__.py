"""Networks in files: checkpoints of ours and of others, and analyses of them."""
