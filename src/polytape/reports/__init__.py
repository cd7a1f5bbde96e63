"""Tables and pictures made from records; no model and no framework is needed to draw them."""
