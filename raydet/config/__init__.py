"""Configuration: typed, frozen, torch-free and Ray-free. `load` turns YAML and overrides into a `RunConfig`."""
