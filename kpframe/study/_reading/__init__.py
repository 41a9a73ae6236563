"""Read what runs have recorded: merged, opened, summarized, exported."""
