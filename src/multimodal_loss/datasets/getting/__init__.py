"""Getting and preparing data: what the scripts share."""
