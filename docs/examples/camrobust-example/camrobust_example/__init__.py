"""Methods for camrobust; the configuration names `camrobust_example.methods` under `plugins`."""
