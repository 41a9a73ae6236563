"""What tests of kpframe and of third-party plugins share."""
