"""The local stack: SeaweedFS (S3), Prefect and MLflow, on loopback, for one checkout.

`python -m infra.local up|down|status` from the checkout's root.
"""
