"""The report as values, as a page and as Markdown. Nothing in here runs anything."""
