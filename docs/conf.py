"""How Sphinx builds these pages; every warning is an error (`make docs`)."""

from __future__ import annotations

import aft

project = "aft"
author = "The authors of adaptive-feature-transfer"
copyright = author
version = release = aft.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"aft {version}"
html_show_copyright = False
