"""Where rows come from: folders, tables and Hugging Face data sets, read into one form."""
