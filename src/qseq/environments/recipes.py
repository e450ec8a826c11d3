"""Ways of collecting poor data on purpose: name -> parts of (fraction of the episodes, env kwargs, policy kwargs).

Each part is one `qseq collect --env qseq.environments.metaworld:qseq/metaworld-v3 --policy
scripted:qseq.environments.scripted:corrupted_expert` into the same store, with its own seed.
"""

from __future__ import annotations
