"""The SD image, as far as it can be looked at without starting it (`make image`)."""
