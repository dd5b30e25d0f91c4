"""Questions put to data: a plain public module in this folder is a study."""
