"""Every option, once: for flags, YAML files and Python calls."""
