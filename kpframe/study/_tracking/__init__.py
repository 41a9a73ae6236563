"""Record anyone's training, in any loop."""
