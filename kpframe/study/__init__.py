"""Studies: train networks, measure their operators along the way, keep the results."""
