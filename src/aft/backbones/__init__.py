"""Networks of other libraries without their last layer, and what goes into them."""
