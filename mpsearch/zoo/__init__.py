"""Small reference models and data sets. Those on digits need installed packages and seconds only."""
