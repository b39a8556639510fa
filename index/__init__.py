"""From points to exact nearest neighbours."""
