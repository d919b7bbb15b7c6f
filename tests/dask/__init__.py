"""Sweeps on a Dask cluster: `make test-dask`."""
