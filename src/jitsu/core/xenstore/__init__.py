"""XenStore: the tree that guests and toolstack share, and the ways to it."""
