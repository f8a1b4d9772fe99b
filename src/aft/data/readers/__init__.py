"""Read folders, tables and Hugging Face data sets into a common form, the `Rows`."""
