"""Figures beside etcd: the same writes, by the same client code, to both in one run.

``python -m bench`` starts a testnet of ours and an etcd of the same size, both durable and with
default settings, and measures closed-loop writes and leader failover in interleaved rounds.
Nothing imports this room. Reading order: cluster (what is compared), wire (requests and answers),
load, failover, distance, ours, etcd, machine, report, __main__.
"""
