"""Study files: the grammar of a study, what is impossible in one, and what it would take."""
