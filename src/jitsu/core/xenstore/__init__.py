"""The XenStore: an immutable tree, transactions that merge, watches, permissions, quotas."""
